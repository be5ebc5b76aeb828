"""A small certificate authority, for labs, tests and first installs. Called by lab, roles and tests.

A region brings its own (SPIRE, cert-manager, Istio); Alcor asks only for what is issued here: TLS certificates whose
DNS name is the machine's name and whose URI is a SPIFFE id `spiffe://alcor/<role>/<name>` (SPIFFE-ID 2), from which the
peer reads the role. cryptography.x509 enters through this file only, and agents are spared it.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from alcor.kit.files import replace_file

TRUST_DOMAIN = "alcor"
CA_LIFETIME = datetime.timedelta(days=3650)
LIFETIME = datetime.timedelta(days=365)
CLOCK_SKEW = datetime.timedelta(minutes=5)


def make_ca(directory: Path) -> None:
    """Makes `ca.pem` and `ca-key.pem` (mode 0600) there; keeps the ones that exist."""
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "ca-key.pem").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Alcor CA")])
    certificate = (
        _builder(name, name, key.public_key(), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    replace_file(directory / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    replace_file(directory / "ca-key.pem", _key_bytes(key), 0o600)


def issue(ca: Path, directory: Path, name: str, *, role: str, addresses: Iterable[str] = ()) -> None:
    """Issues to `name` in `role` (`controller`, `agent`) from the CA in `ca`, for client and server use.

    Writes `ca.pem`, `<role>.pem` and `<role>-key.pem` (mode 0600) into `directory`, replacing older ones.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ca_pem = (ca / "ca.pem").read_bytes()
    ca_certificate = x509.load_pem_x509_certificate(ca_pem)
    ca_key = serialization.load_pem_private_key((ca / "ca-key.pem").read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{ca / 'ca-key.pem'} is not an EC key: make the CA anew with make_ca")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    names: list[x509.GeneralName] = [
        x509.DNSName(name),
        x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{role}/{name}"),
    ]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    certificate = (
        _builder(subject, ca_certificate.subject, key.public_key(), LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    replace_file(directory / "ca.pem", ca_pem, 0o644)
    replace_file(directory / f"{role}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    replace_file(directory / f"{role}-key.pem", _key_bytes(key), 0o600)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
