//! Where a request comes from.

use std::net::IpAddr;

use http::HeaderMap;

use crate::model::Network;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// In every request's extensions: the other end of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// The client's address: the peer's, unless that is a proxy that is trusted to say for whom it asks. Of X-Forwarded-For the rightmost entry
/// that no trusted proxy has written counts; what stands left of it anybody may have made up.
pub fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    let lines: Vec<&str> = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(client) {
            break;
        }
        // What can't be read ends the chain: the proxy that passed it on is the last that is known.
        let Some(address) = parse(entry.trim()) else { break };
        client = address;
    }
    client
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse(entry: &str) -> Option<IpAddr> {
    entry
        .parse::<IpAddr>()
        .or_else(|_| entry.parse::<std::net::SocketAddr>().map(|address| address.ip()))
        .or_else(|_| entry.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<Network> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client_address(&headers, peer.parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn the_header_counts_only_where_a_trusted_proxy_wrote_it() {
        let proxies = ["10.0.0.0/8"];
        assert_eq!(client("192.0.2.1", &["198.51.100.1"], &proxies), "192.0.2.1", "a stranger's header");
        assert_eq!(client("192.0.2.1", &["198.51.100.1"], &[]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"], &proxies), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 198.51.100.1"], &proxies), "198.51.100.1", "the rest may be made up");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, 10.0.0.2"], &proxies), "198.51.100.1", "through two proxies");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.1", "10.0.0.2"], &proxies), "198.51.100.1", "in several lines");
        assert_eq!(client("10.0.0.1", &[], &proxies), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["unknown"], &proxies), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1:443"], &proxies), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["[2001:db8::1]"], &proxies), "2001:db8::1");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.1"], &proxies), "198.51.100.1");
    }
}
