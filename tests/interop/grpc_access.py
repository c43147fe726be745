"""A gRPC server that speaks xDS and its clients, without any proxy: mutual TLS and who may call what, by
the annotations and AccessPolicies of its service.

Proves that
- a server whose service is `strict` is called by clients that prove who they are, and by nobody else;
- it calls nobody and is called by nobody as long as it is not who its service says (gRFC A29);
- an AccessPolicy allows and denies by identity and method, and takes effect as it changes (gRFC A41);
- policies hold in the clear as well, as far as they are about methods;
- a server that cannot prove who it is serves nobody once it has to, rather than everybody.
"""

import argparse
import contextlib
import socket
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import bootstraps
import certificates
import control_process
import grpc_process
import kit

TARGET = "xds:///echo.shop.svc.cluster.local:50051"
ADDRESS = "127.78.2.1"
TRIES = 10
DOMAIN = "spiffe://cluster.local/ns/shop/sa"
MANIFEST = """\
apiVersion: v1
kind: Service
metadata:
  name: echo
  namespace: shop
  annotations:
    portolan.dev/mtls: strict
    portolan.dev/service-accounts: echo
spec: {ports: [{name: grpc, port: 50051, appProtocol: grpc}, {name: other, port: 50052}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-1, namespace: shop, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: grpc, port: PORT}, {name: other, port: 9}]
endpoints: [{addresses: [ADDRESS]}]
"""
POLICY = """\
---
apiVersion: portolan.dev/v1alpha1
kind: AccessPolicy
metadata: {name: NAME, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo, sectionName: grpc}]
  action: ACTION
  rules: [RULE]
"""


def policy(action, rule):
    return POLICY.replace("NAME", action.lower()).replace("ACTION", action).replace("RULE", rule)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proto", required=True, type=Path, help="root of our .proto files")
    parser.add_argument("--language", default="python", choices=grpc_process.LANGUAGES)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "manifests").mkdir()
        scenario = Scenario(args, folder, stack)
        strict(scenario)
        policies(scenario)
        in_the_clear(scenario)


class Scenario:
    """What its steps need."""

    def __init__(self, args, folder, stack):
        self.proto = args.proto
        self.language = args.language
        self.manifest = folder / "manifests" / "echo.yaml"
        self.policy = folder / "manifests" / "policy.yaml"
        with socket.create_server((ADDRESS, 0)) as free:
            self.port = free.getsockname()[1]
        text = MANIFEST.replace("PORT", str(self.port)).replace("ADDRESS", ADDRESS)
        kit.write(self.manifest, text)
        self._authority = certificates.Authority(folder, "mesh")
        self._stack = stack
        self.control = stack.enter_context(control_process.running(folder / "manifests"))
        self.server = self.program("serve", f"{ADDRESS}:{self.port}", "echo", "--serves", "shop/echo")
        kit.say(f"gRPC: {self.server.name}")
        self.cart = self.program("call", TARGET, "cart")
        self.other = self.program("call", TARGET, "other")
        self.nobody = self.program("call", TARGET, None)

    def program(self, word, address, account, *options):
        """Starts a program that can prove to be of this account, or of none."""
        if account:
            chain, key = self._authority.issue(account, f"{DOMAIN}/{account}")
            options += ("--identity-cert", chain, "--identity-key", key)
            options += ("--identity-ca", self._authority.file)
        node = f"access-{word}-{account}"
        options = ["--server", self.control.xds, "--node-id", node, *map(str, options)]
        config = bootstraps.made("grpc", *options)
        running = grpc_process.running(self.language, word, address, self.proto, config)
        return self._stack.enter_context(running)

    def becomes(self, client, code):
        """Waits until calls of a client come to this: `OK` or the name of a status."""

        def so():
            found = outcome(client)
            return found == code or None

        kit.wait_until(f"calls come to {code}", so)


def outcome(client):
    try:
        client.say()
    except grpc_process.Refused as refused:
        return refused.code
    return "OK"


def strict(scenario):
    kit.expect(scenario.cart.wait(), "the server answers")
    scenario.becomes(scenario.other, "OK")
    code = outcome(scenario.nobody)
    kit.expect(code == "UNAVAILABLE", f"who proves nothing: {code}")
    plain = scenario.program("call", f"{ADDRESS}:{scenario.port}", None)
    code = outcome(plain)
    kit.expect(code == "UNAVAILABLE", f"in the clear: {code}")
    kit.say("  strict: clients that prove who they are, and nobody else")
    kit.edit(scenario.manifest, lambda text: text.replace("accounts: echo", "accounts: somebody"))
    # Some keep the connections that they have: what counts is the next handshake, of a client that has
    # heard of it before it connects.
    for _ in range(TRIES):
        late = scenario.program("call", TARGET, "cart")
        if outcome(late) == "UNAVAILABLE":
            break
    else:
        raise kit.Failed("a server that is not who its service says is called")
    kit.edit(scenario.manifest, lambda text: text.replace("accounts: somebody", "accounts: echo"))
    scenario.becomes(late, "OK")
    kit.say("  a server that is not who its service says is not called")


def policies(scenario):
    allow = "{identities: [shop/cart], paths: [/portolan.demo.v1.Echo/Say]}"
    kit.write(scenario.policy, policy("Allow", allow))
    scenario.becomes(scenario.other, "PERMISSION_DENIED")
    kit.expect(outcome(scenario.cart) == "OK", "who is allowed")
    deny = "{identities: [shop/cart], paths: [/portolan.demo.v1.Echo/*]}"
    kit.write(scenario.policy, policy("Allow", allow) + policy("Deny", deny))
    scenario.becomes(scenario.cart, "PERMISSION_DENIED")
    # All calls of gRPC are POSTs.
    kit.write(scenario.policy, policy("Allow", "{identities: [shop/cart], methods: [GET]}"))
    scenario.becomes(scenario.cart, "PERMISSION_DENIED")
    kit.write(scenario.policy, policy("Allow", "{identities: [shop/cart], methods: [POST]}"))
    scenario.becomes(scenario.cart, "OK")
    kit.expect(outcome(scenario.other) == "PERMISSION_DENIED", "who is not allowed")
    kit.write(scenario.policy, policy("Allow", "{identities: ['shop/*']}"))
    scenario.becomes(scenario.cart, "OK")
    scenario.becomes(scenario.other, "OK")
    scenario.policy.unlink()
    scenario.becomes(scenario.other, "OK")
    kit.say("  policies allow and deny by identity and method")


def in_the_clear(scenario):
    kit.write(scenario.policy, policy("Deny", "{paths: [/portolan.demo.v1.Echo/Say]}"))
    scenario.becomes(scenario.cart, "PERMISSION_DENIED")
    kit.edit(scenario.manifest, lambda text: text.replace("mtls: strict", "mtls: 'off'"))
    scenario.becomes(scenario.nobody, "PERMISSION_DENIED")
    scenario.policy.unlink()
    scenario.becomes(scenario.nobody, "OK")
    kit.say("  in the clear, policies about methods hold")


if __name__ == "__main__":
    kit.run(main)
