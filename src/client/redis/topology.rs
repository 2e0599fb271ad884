//! Whose which keys are.

use ::redis::Value;

use super::Server;

/// Slots of a Redis Cluster: part of its protocol.
const SLOTS: u16 = 16_384;
/// Ranges of slots that an answer may have; a Cluster that is cut into more pieces is not to be believed.
const RANGES_MAX: usize = SLOTS as usize;

/// The servers: one that has everything, or a Cluster's primaries with their slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    servers: Vec<Server>,
    /// Ascending; `None`: no Cluster.
    ranges: Option<Vec<Range>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    server: usize,
}

impl Topology {
    /// A server by itself.
    pub(super) fn single(server: Server) -> Self {
        Self { servers: vec![server], ranges: None }
    }

    /// From the answer to CLUSTER SLOTS. `None`: it isn't one, or nobody has any slot.
    pub(super) fn of_slots(answer: &Value, asked: &Server) -> Option<Self> {
        let Value::Array(rows) = answer else { return None };
        let (mut servers, mut ranges) = (Vec::new(), Vec::new());
        for row in rows.iter().take(RANGES_MAX) {
            let Value::Array(fields) = row else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = fields.as_slice() else { return None };
            let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
            let server = primary_of(primary, asked)?;
            let at = servers.iter().position(|known| *known == server).unwrap_or_else(|| {
                servers.push(server);
                servers.len() - 1
            });
            ranges.push(Range { first, last, server: at });
        }
        ranges.sort_by_key(|range| range.first);
        (!servers.is_empty()).then_some(Self { servers, ranges: Some(ranges) })
    }

    pub fn is_cluster(&self) -> bool {
        self.ranges.is_some()
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Which of the servers a key, or a sharded channel, belongs to. `None`: nobody is known to have it.
    pub fn owner(&self, key: &[u8]) -> Option<usize> {
        let Some(ranges) = &self.ranges else { return (!self.servers.is_empty()).then_some(0) };
        let slot = slot(key);
        let at = ranges.partition_point(|range| range.last < slot);
        ranges.get(at).filter(|range| range.first <= slot).map(|range| range.server)
    }
}

/// Host and port of a row's primary. A server that doesn't know its own host leaves it out.
fn primary_of(fields: &[Value], asked: &Server) -> Option<Server> {
    let [host, Value::Int(port), ..] = fields else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        Value::Nil => "",
        _ => return None,
    };
    let host = if matches!(host, "" | "?") { asked.host() } else { host };
    Some(asked.sibling(host, u16::try_from(*port).ok()?))
}

/// The slot of a key: of what stands between its first braces, or else of all of it.
fn slot(key: &[u8]) -> u16 {
    let tag = || {
        let (_, rest) = key.split_at_checked(key.iter().position(|byte| *byte == b'{')? + 1)?;
        let tag = &rest[..rest.iter().position(|byte| *byte == b'}')?];
        (!tag.is_empty()).then_some(tag)
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    use ::redis::IntoConnectionInfo;

    use super::*;

    fn asked() -> Server {
        Server::new("redis://asked:7000".into_connection_info().unwrap())
    }

    fn row(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = |host, port| Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        let replica = node(Value::BulkString(b"replica".to_vec()), 1);
        Value::Array(vec![Value::Int(first), Value::Int(last), node(host, port), replica])
    }

    #[test]
    fn slots_are_those_of_redis() {
        for (key, expected) in [
            ("123456789", 12_739),
            ("chat:c:{0198f7a0-0000-7000-8000-000000000001}", 8_082),
            ("0198f7a0-0000-7000-8000-000000000001", 8_082),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"a{}b"), crc16(b"a{}b") % SLOTS, "empty braces don't count");
        assert_eq!(slot(b"a{b"), crc16(b"a{b") % SLOTS);
    }

    #[test]
    fn a_cluster_is_cut_by_slots_and_replicas_do_not_count() {
        let host = |name: &str| Value::BulkString(name.as_bytes().to_vec());
        let rows = vec![row(8_083, 16_383, host("b"), 2), row(0, 8_000, host("a"), 1), row(8_001, 8_082, Value::Nil, 3)];
        let topology = Topology::of_slots(&Value::Array(rows), &asked()).unwrap();
        let owner = |key: &str| topology.owner(key.as_bytes()).map(|at| topology.servers()[at].name());
        assert_eq!(owner("123456789"), Some("b:2"));
        assert_eq!(owner("x{0198f7a0-0000-7000-8000-000000000001}"), Some("asked:3"), "a server without a host is where it was asked");
        assert_eq!(topology.servers().len(), 3);
    }

    #[test]
    fn slots_that_nobody_has_belong_to_nobody() {
        let rows = Value::Array(vec![row(0, 100, Value::Nil, 1)]);
        assert_eq!(Topology::of_slots(&rows, &asked()).unwrap().owner(b"123456789"), None);
        assert_eq!(Topology::of_slots(&Value::Array(Vec::new()), &asked()), None);
        assert_eq!(Topology::of_slots(&Value::Okay, &asked()), None);
        assert_eq!(Topology::default().owner(b"x"), None);
        assert_eq!(Topology::single(asked()).owner(b"x"), Some(0));
    }
}
