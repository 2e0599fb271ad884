//! nginx in front of the nodes, by the file that is deployed: only names, ports and paths are others.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::common::{Ground, free_port, until};
use crate::programs::{self, NOBODY};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/nginx/nginx.conf");

pub struct Nginx {
    _folder: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

/// The deployed configuration.
pub fn config() -> String {
    std::fs::read_to_string(CONFIG).unwrap()
}

/// The value of a directive that stands once in the configuration.
pub fn directive(name: &str) -> String {
    let config = config();
    let mut values = config.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' ')?.strip_suffix(';'));
    let value = values.next().unwrap_or_else(|| panic!("nginx.conf has no {name}")).to_owned();
    assert!(values.next().is_none(), "nginx.conf has {name} oftener than once");
    value
}

/// `None`: there is none on this machine.
pub fn program() -> Option<PathBuf> {
    programs::find("nginx", std::env::var("TEST_NGINX_BIN").into_iter().map(PathBuf::from))
}

impl Nginx {
    /// In front of nodes on these ports, which are repeated where they are fewer than the configuration has. `changes` are directives
    /// with other values.
    pub async fn start(ground: &Ground, nodes: &[u16], changes: &[(&str, &str)]) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(folder.path().join("certs")).unwrap();
        for file in ["ca.pem", "server.pem", "server.key"] {
            std::fs::copy(ground.path("certs").join(file), folder.path().join("certs").join(file)).unwrap();
        }
        let mut text = config();
        let mut replace = |from: &str, to: &str| {
            assert!(text.contains(from), "nginx.conf has no {from}");
            text = text.replace(from, to);
        };
        replace("listen 443 ", &format!("listen 127.0.0.1:{port} "));
        replace("/etc/nginx/certs", &path("certs"));
        replace("/var/log/nginx/access.log", &path("access.log"));
        for (number, node) in (1..=3).zip(nodes.iter().cycle()) {
            replace(&format!("node{number}.internal:50051"), &format!("127.0.0.1:{node}"));
        }
        for (name, value) in changes {
            replace(&format!(" {name} {};", directive(name)), &format!(" {name} {value};"));
        }
        // Places for what doesn't fit into memory, which an unprivileged user may write to.
        let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {};", path(kind)));
        replace("http {\n", &format!("http {{\n{}\n", places.join("\n")));
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        // Whoever owns nothing may not get to where the program is.
        std::fs::copy(program().expect("nginx is here"), folder.path().join("nginx")).unwrap();
        programs::give_to_nobody(folder.path()).await;

        let mut command = Command::new(folder.path().join("nginx"));
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "error.log", "-g", "daemon off; pid nginx.pid;"]);
        if programs::is_root().await {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let log = folder.path().join("error.log");
        until("nginx listens", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("nginx ended at its start: {status}: {}", read(&log));
            }
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        Self { _folder: folder, port, child }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Its first process ends the others; killed, it could not.
impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id() {
            std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().ok();
        }
    }
}
