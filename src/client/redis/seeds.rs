//! The addresses that the configuration names.

use std::fmt;

use ::redis::io::tcp::TcpSettings;
use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use crate::model::Secret;

/// What is wrong with REDIS_URL. It doesn't repeat what it holds, which may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    #[error(
        "REDIS_URL: address {0} is not redis://HOST:PORT or rediss://HOST:PORT; correct it (user and password stand before the host as USER:PASSWORD@, with %2C for a comma), or unset it to run one node alone"
    )]
    Malformed(usize),
}

/// Where Redis is asked for first: one server, or some of a Cluster's. With credentials.
#[derive(Clone)]
pub struct Seeds(pub(super) Vec<ConnectionInfo>);

impl Seeds {
    /// Reads addresses that are separated by commas.
    pub fn parse(urls: &Secret<String>) -> Result<Self, RedisUrlError> {
        let seeds = urls.expose().split(',').enumerate();
        seeds.map(|(at, url)| seed(url.trim()).ok_or(RedisUrlError::Malformed(at + 1))).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|seed| seed.addr().to_string())).finish()
    }
}

fn seed(url: &str) -> Option<ConnectionInfo> {
    if !(url.starts_with("redis://") || url.starts_with("rediss://")) {
        return None;
    }
    let info = url.into_connection_info().ok()?;
    let has_host = match info.addr() {
        ConnectionAddr::Tcp(host, _) => !host.is_empty(),
        // `#insecure` would believe anyone.
        ConnectionAddr::TcpTls { host, insecure, .. } => !host.is_empty() && !insecure,
        _ => false,
    };
    // RESP3 lets commands and pushed messages share a connection. The library's name is nothing that needs a right of its own.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    has_host.then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(urls: &str) -> Result<Seeds, RedisUrlError> {
        Seeds::parse(&urls.to_owned().into())
    }

    #[test]
    fn addresses_are_one_or_several() {
        assert_eq!(format!("{:?}", parse("redis://localhost").unwrap()), r#"["localhost:6379"]"#);
        let several = parse("rediss://chat:hunter2@a:1, rediss://chat:hunter2@b:2/").unwrap();
        assert_eq!(format!("{several:?}"), r#"["a:1", "b:2"]"#, "and no password");
        assert_eq!(several.0[1].redis_settings().password(), Some("hunter2"));
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for bad in ["", "redis://", "localhost:6379", "http://h", "redis://h:x", "unix:///run/redis", "rediss://h#insecure", "redis://h/x"]
        {
            assert_eq!(parse(bad).unwrap_err(), RedisUrlError::Malformed(1), "{bad}");
        }
        let error = parse("redis://good,redis://u:hunter2@:bad").unwrap_err();
        assert_eq!(error, RedisUrlError::Malformed(2));
        assert!(!error.to_string().contains("hunter2"));
    }
}
