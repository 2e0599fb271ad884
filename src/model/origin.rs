//! Origins of web pages.

use std::str::FromStr;

/// An origin, `https://app.example.org`, as browsers write it: with a port only where it isn't the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// Whether it is the origin of the server itself, which `host` names as a Host header does. The scheme doesn't count: a proxy in front
    /// may have ended TLS.
    pub fn is_at(&self, host: &str) -> bool {
        let (scheme, own) = self.0.split_once("://").unwrap_or_default();
        let host = host.to_ascii_lowercase();
        without_port_of(scheme, &host) == own
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an origin like https://app.example.org or http://localhost:8080");
        let lower = text.to_ascii_lowercase();
        let (scheme, host) = lower.split_once("://").ok_or_else(wrong)?;
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if !matches!(scheme, "http" | "https") || host.is_empty() || !host.bytes().all(is_fit) {
            return Err(wrong());
        }
        Ok(Self(format!("{scheme}://{}", without_port_of(scheme, host))))
    }
}

fn without_port_of<'a>(scheme: &str, host: &'a str) -> &'a str {
    let port = if scheme == "http" { ":80" } else { ":443" };
    host.strip_suffix(port).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn an_origin_is_a_scheme_a_host_and_perhaps_a_port() {
        assert_eq!(origin("HTTPS://App.example.org:443"), origin("https://app.example.org"));
        assert_ne!(origin("http://app.example.org"), origin("https://app.example.org"));
        assert_ne!(origin("https://app.example.org:8443"), origin("https://app.example.org"));
        for bad in ["", "*", "null", "app.example.org", "https://", "https://a/", "https://a/b", "ftp://a", "https://u@a", "https://a b"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_servers_own_pages_are_known_by_its_host() {
        assert!(origin("https://chat.example.org").is_at("chat.example.org"));
        assert!(origin("https://chat.example.org").is_at("Chat.Example.org:443"));
        assert!(origin("https://localhost:50051").is_at("localhost:50051"));
        assert!(origin("https://[::1]:50051").is_at("[::1]:50051"));
        assert!(!origin("https://localhost:50051").is_at("localhost:50052"));
        assert!(!origin("https://localhost").is_at("localhost:50051"));
        assert!(!origin("https://evil.example").is_at("chat.example.org"));
    }
}
