"""Certificates of this run's own."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    """An authority; `file` is its certificate."""

    def __init__(self, folder, name):
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        ca = x509.BasicConstraints(ca=True, path_length=0)
        made = self._begun(name, self._key).add_extension(ca, critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(pem(made.sign(self._key, hashes.SHA256())))

    def issue(self, name, uri=None):
        """Files of a new chain and its key, for localhost and 127.0.0.1, and a URI. Those of the same
        name are replaced, each atomically."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        if uri:
            names.append(x509.UniformResourceIdentifier(uri))
        made = self._begun(name, key)
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        chain = self._replace(f"{name}.crt", pem(made.sign(self._key, hashes.SHA256())))
        return chain, self._replace(f"{name}.key", private)

    def _begun(self, name, key):
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(self._name))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        hour, day = datetime.timedelta(hours=1), datetime.timedelta(days=1)
        return builder.not_valid_before(now - hour).not_valid_after(now + day)

    def _replace(self, name, content):
        unfinished = self._folder / f".{name}"
        unfinished.write_bytes(content)
        return unfinished.replace(self._folder / name)


def serial(path):
    """Serial number of the first certificate of a file."""
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def serial_of(encoded):
    """The same of an encoded one, as a connection has it."""
    return x509.load_der_x509_certificate(encoded).serial_number


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
