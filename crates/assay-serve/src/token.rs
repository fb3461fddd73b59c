//! The optional bearer token, and the host names that are accepted without one.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use crate::error::ServeError;

/// Minimum number of characters of a token.
const MIN_CHARS: usize = 16;

/// A secret that requests must carry.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token from the text of its file: one line, without white space around it.
    ///
    /// # Errors
    /// [`ServeError::Token`] if it has fewer than 16 characters or characters other than visible
    /// ASCII.
    pub fn parse(text: &str) -> Result<Self, ServeError> {
        let token = text.trim();
        if token.len() >= MIN_CHARS && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(token.to_owned()));
        }
        let found = token.bytes().take_while(u8::is_ascii_graphic).count();
        Err(ServeError::Token {
            min: MIN_CHARS,
            found,
        })
    }

    /// Whether a request has the token. The time of the comparison does not depend on the position
    /// of a difference.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get(header::AUTHORIZATION)
            .map(|value| value.as_bytes())
            .and_then(|value| value.split_at_checked("bearer ".len()))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, token)| token);
        given.is_some_and(|token| token.ct_eq(self.0.as_bytes()).into())
    }
}

/// Whether a request's host is an IP address or `localhost`. Without a token, a page of another
/// origin must not reach the service by resolving its own name to this address (DNS rebinding).
pub(crate) fn names_an_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_whole_token_is_needed() {
        let token = Token::parse("  0123456789abcdef\n").ok().unwrap();
        let given = |value| token.is_in(&with(header::AUTHORIZATION, value));
        assert!(given("Bearer 0123456789abcdef"));
        assert!(given("bearer 0123456789abcdef"));
        for wrong in [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer ",
            "",
        ] {
            assert!(!given(wrong), "{wrong}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
    }

    #[test]
    fn weak_tokens_are_refused() {
        for weak in [
            "",
            "short",
            "two lines here\nof a token",
            "sixteen chars é é",
        ] {
            assert!(Token::parse(weak).is_err(), "{weak:?}");
        }
    }

    #[test]
    fn names_that_can_be_rebound_are_refused() {
        let asks = |host| names_an_address(&with(header::HOST, host));
        for fine in [
            "127.0.0.1:8000",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8000",
            "10.0.0.3",
        ] {
            assert!(asks(fine), "{fine}");
        }
        for foreign in [
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert!(!asks(foreign), "{foreign}");
        }
    }
}
