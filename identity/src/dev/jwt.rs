//! JWT-SVIDs of the dev authority: ES256, five minutes.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};

use crate::Error;

/// Lifetime of a token.
const TTL: Duration = Duration::from_mins(5);
/// Largest token that is looked at.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The key that signs tokens.
pub(crate) struct JwtKey {
    pair: EcdsaKeyPair,
    kid: String,
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl JwtKey {
    pub(crate) fn generate() -> Result<Self, Error> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_unspecified| Error::Setting("the dev authority cannot make a key".to_owned()))?;
        Ok(Self { pair, kid: format!("{:016x}", fastrand::u64(..)) })
    }

    /// The JWK set of the trust domain (J-7, J-11).
    pub(crate) fn jwks(&self) -> Vec<u8> {
        let point = self.pair.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| BASE64.encode(point.get(range).unwrap_or_default());
        let key = json!({
            "kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": self.kid,
            "x": coordinate(1..33), "y": coordinate(33..65),
        });
        json!({ "keys": [key] }).to_string().into_bytes()
    }

    /// A token for these audiences.
    pub(crate) fn issue(&self, spiffe_id: &str, audience: &[String], now: SystemTime) -> Option<String> {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let header = json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" });
        let claims =
            json!({ "sub": spiffe_id, "aud": audience, "iat": seconds, "exp": seconds + TTL.as_secs() });
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", BASE64.encode(signature.as_ref())))
    }

    /// The claims of a token of ours for this audience (J-1 to J-6), or what is wrong with it.
    pub(crate) fn validate(
        &self,
        token: &str,
        audience: &str,
        now: SystemTime,
    ) -> Result<Value, &'static str> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err("the token is too large");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("the token is not a compact JWS")?;
        let (header, claims) = signed.split_once('.').ok_or("the token is not a compact JWS")?;
        let json = |part: &str| {
            BASE64.decode(part).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        };
        let header = json(header).ok_or("the header is not JSON")?;
        if header.get("alg") != Some(&json!("ES256")) || header.get("kid") != Some(&json!(self.kid)) {
            return Err("the token is not signed by a key of this trust domain");
        }
        let signature = BASE64.decode(signature).map_err(|_not_base64| "the signature is not base64")?;
        signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_wrong| "the signature is wrong")?;
        let claims = json(claims).ok_or("the claims are not JSON")?;
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if claims.get("exp").and_then(Value::as_u64).is_none_or(|exp| exp <= seconds) {
            return Err("the token has expired");
        }
        let meant =
            claims.get("aud").and_then(Value::as_array).is_some_and(|aud| aud.contains(&json!(audience)));
        if meant { Ok(claims) } else { Err("the token is not for this audience") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_hold_for_their_audience_their_time_and_their_key() {
        let key = JwtKey::generate().expect("key");
        let now = SystemTime::now();
        let token = key.issue("spiffe://td/a", &["b".to_owned()], now).expect("token");
        assert_eq!(key.validate(&token, "b", now).expect("valid")["sub"], "spiffe://td/a");
        assert!(key.validate(&token, "c", now).is_err());
        assert!(key.validate(&token, "b", now + TTL).is_err());
        assert!(JwtKey::generate().expect("key").validate(&token, "b", now).is_err());
        let (head, _) = token.rsplit_once('.').expect("three parts");
        assert!(key.validate(&format!("{head}.AAAA"), "b", now).is_err());
    }
}
