"""An identity provider in short: keys of all kinds, the JWKS that tells them, and tokens."""

from __future__ import annotations

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

KINDS = ("RS256", "ES256", "EdDSA")


class Issuer:
    """Signs with any of its keys, by name; publishes those in `published`."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {}
        self.published: list[str] = []

    def add(self, name: str, algorithm: str = "ES256", *, publish: bool = True) -> None:
        private: Any
        match algorithm:
            case "RS256":
                private = rsa.generate_private_key(65537, 2048)
            case "ES256":
                private = ec.generate_private_key(ec.SECP256R1())
            case _:
                private = ed25519.Ed25519PrivateKey.generate()
        self.keys[name] = (algorithm, private)
        if publish:
            self.published.append(name)

    def jwk(self, name: str) -> dict[str, Any]:
        algorithm, private = self.keys[name]
        kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        made = json.loads(kinds[algorithm].to_jwk(private.public_key()))
        return {**made, "kid": name, "use": "sig", "alg": algorithm}

    def jwks(self) -> bytes:
        return json.dumps({"keys": [self.jwk(name) for name in self.published]}).encode()

    def token(self, name: str, user: str, now: float, *, kid: str | None = None, **claims: Any) -> str:
        algorithm, private = self.keys[name]
        payload = {"sub": user, "exp": int(now) + 3600, "iat": int(now), "aud": "chat", **claims}
        named = name if kid is None else kid
        return jwt.encode(payload, private, algorithm=algorithm, headers={"kid": named} if named else None)
