//! The calls that metrics and spans tell apart.

/// `service/method` of each, and two that are no call's: what browsers ask before a page's request, and whatever else clients ask for, so that they can't
/// make up names without end.
pub const METHODS: [&str; 16] = [
    "chat.v1.ChatService/CreateChat",
    "chat.v1.ChatService/GetChat",
    "chat.v1.ChatService/ListChats",
    "chat.v1.ChatService/DeleteChat",
    "chat.v1.ChatService/AddMembers",
    "chat.v1.ChatService/RemoveMember",
    "chat.v1.ChatService/SendMessage",
    "chat.v1.ChatService/ListMessages",
    "chat.v1.ChatService/ConnectChat",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.health.v1.Health/List",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "preflight",
    "other",
];

/// How many of [`METHODS`] are calls.
const CALLS: usize = METHODS.len() - 2;

/// A call of [`METHODS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method(usize);

impl Method {
    /// What browsers ask before a page's request, whatever its path.
    pub const PREFLIGHT: Self = Self(CALLS);

    /// Of a request's path.
    pub fn of(path: &str) -> Self {
        let name = path.strip_prefix('/').unwrap_or(path);
        Self(METHODS[..CALLS].iter().position(|method| *method == name).unwrap_or(METHODS.len() - 1))
    }

    /// Whether it is one of the calls that this service has.
    pub fn is_call(self) -> bool {
        self.0 < CALLS
    }

    pub fn index(self) -> usize {
        self.0
    }

    pub fn name(self) -> &'static str {
        METHODS[self.0]
    }

    /// The service and the method alone.
    pub fn parts(self) -> (&'static str, &'static str) {
        self.name().split_once('/').unwrap_or(("other", "other"))
    }

    /// Whether its answer goes on for as long as the client likes.
    pub fn is_stream(self) -> bool {
        let (_, method) = self.parts();
        matches!(method, "ConnectChat" | "Watch" | "ServerReflectionInfo")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_other() {
        assert_eq!(Method::of("/chat.v1.ChatService/SendMessage").parts(), ("chat.v1.ChatService", "SendMessage"));
        assert_eq!(Method::PREFLIGHT.name(), "preflight");
        for path in ["", "/", "/preflight", "/chat.v1.ChatService/Drop", "/other/other", "/chat.v1.ChatService/SendMessage/"] {
            assert_eq!(Method::of(path).name(), "other", "{path}");
        }
        assert!(Method::of("/chat.v1.ChatService/ConnectChat").is_stream());
        assert!(!Method::of("/chat.v1.ChatService/SendMessage").is_stream());
    }

    #[test]
    fn every_call_of_the_api_is_told_apart() {
        let pool = prost_reflect::DescriptorPool::decode(crate::pb::FILE_DESCRIPTOR_SET).unwrap();
        let service = pool.get_service_by_name("chat.v1.ChatService").unwrap();
        for call in service.methods() {
            let name = format!("{}/{}", service.full_name(), call.name());
            let method = Method::of(&format!("/{name}"));
            assert_eq!(method.name(), name, "METHODS lacks it");
            assert_eq!(method.is_stream(), call.is_server_streaming(), "{name}");
        }
    }
}
