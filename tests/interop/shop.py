"""The example shop as `portolan demo` serves it: who is ready, and manifests made from its own."""

import argparse
import re
from pathlib import Path

WEB = {"web-1", "web-2", "web-3"}
GREETER = {"greeter-1", "greeter-2"}
DB = {"db-1", "db-2"}


def arguments(doc, more=lambda parser: None):
    """What tests/interop.rs tells a script of a running demo, and `more` that the script takes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--xds", required=True, help="address of the xDS server")
    parser.add_argument("--admin", required=True, help="address of Portolan's admin port")
    parser.add_argument("--dir", required=True, type=Path, help="folder of manifests it watches")
    parser.add_argument("--proto", required=True, type=Path, help="root of our .proto files")
    more(parser)
    return parser.parse_args()


def pier(folder, port=80, balancer="least_request"):
    """Manifests of a new service `pier` whose endpoints are those of `web`."""
    text = renamed(folder, "web", "pier")
    text = text.replace("      port: 80\n", f"      port: {port}\n")
    annotation = f"    portolan.dev/balancer: {balancer}\n"
    text, count = re.subn(r"^  annotations:\n", rf"\g<0>{annotation}", text, flags=re.MULTILINE)
    assert count == 1, "the Service of web.yaml has annotations, and nothing else there has"
    return text


def renamed(folder, service, name):
    """Manifests of a service of another name with the same endpoints."""
    text = (folder / f"{service}.yaml").read_text()
    text = re.sub(r"^  clusterIP: .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(rf"^  name: {service}", f"  name: {name}", text, flags=re.MULTILINE)
    return text.replace(f"service-name: {service}", f"service-name: {name}")
