//! ring's key pairs behind one type, in the form in which rcgen asks for signatures.

use rcgen::{PublicKeyData, SigningKey};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair},
};

use super::{KeyAlgorithm, PrivateKeyError};

/// A private key ready to sign. `authority::Signer` signs certificates with it, and `PrivateKey` requests for them.
pub(in crate::domain) struct KeyPair {
    secret: Secret,
    algorithm: KeyAlgorithm,
    public: Vec<u8>,
    random: SystemRandom,
}

enum Secret {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl KeyPair {
    /// From PKCS#8 DER. ring signs with RSA keys of 2048 to 4096 bits.
    pub(super) fn from_pkcs8(der: &[u8]) -> Result<Self, PrivateKeyError> {
        let random = system_random();
        let ecdsa = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der, &random).map(Secret::Ecdsa);
        let (secret, algorithm) = if let Ok(pair) = ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING) {
            (pair, KeyAlgorithm::EcdsaP256)
        } else if let Ok(pair) = ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING) {
            (pair, KeyAlgorithm::EcdsaP384)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            (Secret::Ed25519(pair), KeyAlgorithm::Ed25519)
        } else {
            let Ok(pair) = RsaKeyPair::from_pkcs8(der) else { return Err(PrivateKeyError::Unsupported) };
            let bits = u16::try_from(pair.public().modulus_len() * 8).unwrap_or(u16::MAX);
            (Secret::Rsa(pair), KeyAlgorithm::Rsa(bits))
        };
        let public = secret.public_key().to_vec();
        Ok(Self { secret, algorithm, public, random })
    }

    pub(super) const fn key_algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }
}

impl Secret {
    fn public_key(&self) -> &[u8] {
        use ring::signature::KeyPair;
        match self {
            Self::Ecdsa(pair) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
            Self::Rsa(pair) => pair.public_key().as_ref(),
        }
    }
}

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm.signature_algorithm()
    }
}

impl SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signed = match &self.secret {
            Secret::Ecdsa(pair) => pair.sign(&self.random, message).map(|signature| signature.as_ref().to_vec()),
            Secret::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Secret::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(&signature::RSA_PKCS1_SHA256, &self.random, message, &mut signature);
                signed.map(|()| signature)
            }
        };
        signed.or(Err(rcgen::Error::RingUnspecified))
    }
}

/// The randomness that keys and signatures are made with.
#[expect(clippy::disallowed_methods, reason = "ring signs and generates only with its own source")]
pub(super) fn system_random() -> SystemRandom {
    SystemRandom::new()
}
