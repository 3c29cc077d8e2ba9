"""A certificate for this machine's own address, made anew for every cluster."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Identity(NamedTuple):
    """What a server needs, and the certificate by which its clients know it, as PEM."""

    context: ssl.SSLContext
    certificate: bytes


def key_and_certificate(
    name: str, addresses: Sequence[x509.GeneralName] = ()
) -> tuple[bytes, bytes]:
    """Return a key and the certificate of an authority that it has signed, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.now(timezone.utc) - timedelta(hours=1)
    public = key.public_key()
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if addresses:
        made = made.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signed = made.sign(key, hashes.SHA256())
    return secret, signed.public_bytes(serialization.Encoding.PEM)


def identity() -> Identity:
    addresses = (
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.DNSName("localhost"),
        x509.DNSName("kubernetes.default.svc"),
    )
    secret, certificate = key_and_certificate("kubernetes", addresses)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # ssl reads it from a file alone
        file.write(secret + certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return Identity(context, certificate)
