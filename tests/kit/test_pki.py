"""kit.pki: certificates that mutual TLS accepts, and keys that nobody else can read."""

import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from alcor.kit import pki


def test_a_certificate_carries_name_role_and_addresses(tmp_path: Path) -> None:
    """The peer finds the machine's name, its SPIFFE id and its addresses in the certificate, signed by the CA."""
    pki.make_ca(tmp_path)
    pki.issue(tmp_path, tmp_path / "host", "host-1", role="agent", addresses=["10.0.0.1"])
    certificate = x509.load_pem_x509_certificate((tmp_path / "host" / "agent.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ["host-1"] == names.get_values_for_type(x509.DNSName)
    assert ["spiffe://alcor/agent/host-1"] == names.get_values_for_type(x509.UniformResourceIdentifier)
    assert ["10.0.0.1"] == [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    ca = x509.load_pem_x509_certificate((tmp_path / "host" / "ca.pem").read_bytes())
    certificate.verify_directly_issued_by(ca)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_keys_are_private(tmp_path: Path) -> None:
    """Private keys are readable by their owner only."""
    pki.make_ca(tmp_path)
    pki.issue(tmp_path, tmp_path, "c", role="controller")
    for name in ("ca-key.pem", "controller-key.pem"):
        assert 0o600 == stat.S_IMODE((tmp_path / name).stat().st_mode)


def test_a_ca_is_kept(tmp_path: Path) -> None:
    """Making a CA where one is changes nothing."""
    pki.make_ca(tmp_path)
    before = (tmp_path / "ca.pem").read_bytes()
    pki.make_ca(tmp_path)
    assert before == (tmp_path / "ca.pem").read_bytes()
