//! The signature that a receiver checks: the scheme of Standard Webhooks, so that its libraries do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What a secret begins with, so that a leaked one is recognised for what it is.
const PREFIX: &str = "whsec_";

/// As many bytes of a secret as the scheme asks for at least, and at most.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

#[derive(Clone)]
pub struct Signer {
    key: Vec<u8>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a webhook secret is `{PREFIX}` and 24 to 64 bytes in base64")]
pub struct WrongSecret;

impl Signer {
    pub fn new(secret: &str) -> Result<Self, WrongSecret> {
        let encoded = secret.trim().strip_prefix(PREFIX).ok_or(WrongSecret)?;
        let key = STANDARD.decode(encoded).map_err(|_| WrongSecret)?;
        if KEY_BYTES.contains(&key.len()) { Ok(Self { key }) } else { Err(WrongSecret) }
    }

    /// A secret made of the caller's randomness.
    pub fn secret(random: [u8; 32]) -> String {
        format!("{PREFIX}{}", STANDARD.encode(random))
    }

    /// Over delivery id, time and body, so that none of them can be another's.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        // The algorithm takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else { return String::new() };
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scheme's own example.
    #[test]
    fn it_is_the_schemes() {
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let body = br#"{"test": 2432232314}"#;
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_checked_and_shown_to_nobody() {
        let made = Signer::secret([7; 32]);
        assert!(!format!("{:?}", Signer::new(&made).expect("sound")).contains(&made[6..]));
        for wrong in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%"] {
            assert!(Signer::new(wrong).is_err(), "{wrong}");
        }
    }
}
