//! The library path of one P-256 certificate (request from PEM, proof of possession, building, signing, lint, response)
//! next to what ring alone takes to verify the request and to sign. Fails when the former is over 1.5 times the latter.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark measures real time with real keys"
)]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "what fails here is a broken benchmark")]

use std::{
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use countersign::domain::{
    authority::{SigningAuthority, TtlBounds, issue},
    clock::Timestamp,
    identity::SpiffeId,
    random::{RandomUnavailable, SecureRandom},
    x509::{PrivateKey, VerifiedCsr},
};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};

const BLOCKS: usize = 60;
const PER_BLOCK: u32 = 100;
const MOST: f64 = 1.5;

struct Ring(SystemRandom);

impl SecureRandom for Ring {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
        self.0.fill(bytes).or(Err(RandomUnavailable))
    }
}

fn main() -> ExitCode {
    let random = Ring(SystemRandom::new());
    let now = Timestamp::from_seconds(1_800_000_000);
    let bounds = TtlBounds::new(Duration::from_secs(86_400), Duration::from_secs(7_776_000)).unwrap();
    let lifetime = Duration::from_secs(315_360_000);
    let (authority, _) =
        SigningAuthority::self_signed(&"cluster.local".parse().unwrap(), lifetime, now, &random).unwrap();
    let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/gateway".parse().unwrap();
    let request = PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap();
    let library = || {
        let csr = VerifiedCsr::from_pem(request.as_bytes()).unwrap();
        let issued = issue(&authority, &csr, &id, 0, &bounds, now, &random).unwrap();
        black_box(issued.response_chain(&authority));
    };

    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random.0).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random.0).unwrap();
    // As long as the signed parts of a request and of a leaf.
    let (requested, leaf) = ([7; 220], [7; 400]);
    let proof = pair.sign(&random.0, &requested).unwrap();
    let bare = || {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key()).verify(&requested, proof.as_ref()).unwrap();
        black_box(pair.sign(&random.0, &leaf).unwrap());
    };

    let (mut of_library, mut of_bare) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        of_library.push(block(library));
        of_bare.push(block(bare));
    }
    let (library, bare) = (median(of_library), median(of_bare));
    let ratio = library.as_secs_f64() / bare.as_secs_f64();
    println!("one P-256 certificate       median of {BLOCKS} blocks of {PER_BLOCK}");
    println!("  ring, verify and sign     {bare:>10.2?}");
    println!("  library path              {library:>10.2?}");
    println!("  ratio                     {ratio:>10.2} (at most {MOST})");
    if ratio > MOST { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn block(work: impl Fn()) -> Duration {
    let start = Instant::now();
    (0..PER_BLOCK).for_each(|_| work());
    start.elapsed() / PER_BLOCK
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
