//! A RabbitMQ node of the test's own, which can be stopped, killed and frozen.
//!
//! Everything of it is private: node name, ports, name service, data. Nothing of it outlives the test
//! process, however that ends: a small shell holds the other end of a pipe, and when the pipe closes
//! it kills the node and removes its folder.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::certificates::{Authority, Pair};
use super::hosts::Host;

/// Where Debian has the scripts that any user may run; those in `/usr/sbin` insist on their own user.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// How long a node may take to start, on a machine that is busy with other tests.
const START: Duration = Duration::from_mins(2);

/// How many nodes may be used at once beside the shared one: starting one takes two cores some seconds.
const PRIVATE_NODES: usize = 2;

/// The largest message that a node takes unless a test says otherwise.
const USUAL_MESSAGE_SIZE: u32 = 128 * 1024 * 1024;

/// What runs between the test and its node. It ends when the test closes the pipe, in whichever way.
const KEEPER: &str = r#"
trap '' INT TERM HUP
names=
[ "$3" = shared ] || { setsid epmd >/dev/null 2>&1 & names=$!; }
setsid "$1/rabbitmq-server" >>"$2/output" 2>&1 & node=$!
read -r word
kill -KILL "-$node" $names 2>/dev/null
[ "$word" = keep ] || rm -rf "$2"
"#;

/// The name service of a node, where the nodes of a cluster find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// It comes and goes with the node.
    Own(u16),
    /// Others have it too.
    Shared(u16),
}

impl Names {
    fn port(self) -> u16 {
        let (Self::Own(port) | Self::Shared(port)) = self;
        port
    }
}

/// A node with its own data.
pub(crate) struct Node {
    /// A host of its own; `None` for the host of the test.
    host: Option<Host>,
    name: String,
    port: u16,
    distribution_port: u16,
    names: Names,
    vhosts: AtomicUsize,
    running: Mutex<Option<Running>>,
    folder: TempDir,
}

/// A running node: the shell that keeps it, and its own process.
struct Running {
    keeper: Child,
    pid: u32,
}

impl Node {
    /// The node that all tests of this binary share, each in its own vhost. Not to be stopped.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Node> = LazyLock::new(|| {
            let node = Node::new();
            node.start_again();
            node
        });
        &SHARED
    }

    /// A running node that is this test's alone, to be stopped, killed and frozen. It may have served
    /// another test before, so use a vhost.
    pub(crate) fn start() -> Private {
        let permit = Permit::take();
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let node = idle.inspect(|node| node.set_max_message_size(USUAL_MESSAGE_SIZE)).unwrap_or_else(|| {
            let node = Self::new();
            node.start_again();
            node
        });
        Private { node: Some(node), _permit: permit }
    }

    /// A running node that is this test's alone and refuses messages that are larger than this many bytes, also after
    /// it was killed and started again.
    pub(crate) fn that_takes_at_most(bytes: u32) -> Private {
        let permit = Permit::take();
        let node = Self::new();
        node.configure(&format!("max_message_size = {bytes}"));
        node.start_again();
        Private { node: Some(node), _permit: permit }
    }

    /// A node that is this test's alone and was never started. It has the vhost `/`.
    pub(crate) fn absent() -> Private {
        let permit = Permit::take();
        Private { node: Some(Self::new()), _permit: permit }
    }

    /// A node that is this test's alone, has these plugins, and was never used. It has the vhost `/`.
    pub(crate) fn with_plugins(plugins: &[&str]) -> Private {
        let permit = Permit::take();
        let node = Self::new();
        fs::write(node.folder.path().join("plugins"), format!("[{}].", plugins.join(","))).unwrap();
        node.configure(&format!("stream.listeners.tcp.1 = 127.0.0.1:{}", free_port()));
        node.start_again();
        Private { node: Some(node), _permit: permit }
    }

    /// A node that was never started and that registers with the name service at this port, for a cluster of those that
    /// have the same cookie.
    pub(super) fn member(names_port: u16, cookie: &str) -> Self {
        Self::at(None, Names::Shared(names_port)).with_cookie(cookie)
    }

    /// The same on a host of its own, with a name service of its own at this port.
    pub(super) fn member_on(host: Host, names_port: u16, cookie: &str) -> Self {
        Self::at(Some(host), Names::Own(names_port)).with_cookie(cookie)
    }

    fn with_cookie(self, cookie: &str) -> Self {
        let file = self.folder.path().join(".erlang.cookie");
        fs::write(&file, cookie).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o400)).unwrap();
        self
    }

    fn new() -> Self {
        Self::at(None, Names::Own(free_port()))
    }

    fn at(host: Option<Host>, names: Names) -> Self {
        let server = scripts().join("rabbitmq-server");
        assert!(
            server.is_file(),
            "these tests need a real RabbitMQ, and there is no {}: install it (apt-get install rabbitmq-server), \
             or say in RABBITMQ_SCRIPTS where it is; it need not run",
            server.display()
        );
        let folder = tempfile::Builder::new().prefix("file-watcher-rabbit-").tempdir().unwrap();
        let (port, distribution_port) = (free_port(), free_port());
        fs::write(folder.path().join("plugins"), "[].").unwrap();
        let address = address_of(host.as_ref());
        let configuration = format!(
            "listeners.tcp.1 = {address}:{port}\nloopback_users = none\ndisk_free_limit.absolute = 1MB\nlog.file.level = warning\n"
        );
        fs::write(folder.path().join("rabbitmq.conf"), configuration).unwrap();
        let domain = if host.is_some() { &address } else { "localhost" };
        Self {
            name: format!("file-watcher-{port}@{domain}"),
            host,
            port,
            distribution_port,
            names,
            vhosts: AtomicUsize::new(0),
            running: Mutex::new(None),
            folder,
        }
    }

    /// Adds a line to the configuration, for the next start.
    pub(super) fn configure(&self, line: &str) {
        let file = self.folder.path().join("rabbitmq.conf");
        let configuration = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{configuration}{line}\n")).unwrap();
    }

    /// Starts the node, with the data that it has, and waits until it takes connections.
    pub(crate) fn start_again(&self) {
        let keeper = self.begin_start();
        self.end_start(keeper);
    }

    /// Starts the node and waits for nothing. What is returned is for [`Node::end_start`].
    pub(super) fn begin_start(&self) -> Child {
        assert!(self.running().is_none(), "the node runs already");
        // A node that was killed left its file.
        let _ = fs::remove_file(self.pid_file());
        let names = if matches!(self.names, Names::Own(_)) { "own" } else { "shared" };
        let mut keeper = self.command("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(scripts()).arg(self.folder.path()).arg(names);
        keeper.stdin(Stdio::piped()).process_group(0).spawn().unwrap()
    }

    /// Waits until a started node takes connections.
    pub(super) fn end_start(&self, keeper: Child) {
        let begun = Instant::now();
        let pid = loop {
            assert!(begun.elapsed() < START, "RabbitMQ did not start within {START:?}:\n{}", self.output());
            thread::sleep(Duration::from_millis(50));
            let pid = fs::read_to_string(self.pid_file()).ok().and_then(|pid| pid.trim().parse().ok());
            if let (Some(pid), Ok(_)) = (pid, TcpStream::connect((self.address(), self.port))) {
                break pid;
            }
        };
        *self.running() = Some(Running { keeper, pid });
    }

    /// Stops the node as an administrator would.
    pub(crate) fn stop(&self) {
        let pid = self.pid();
        signal("TERM", pid);
        let begun = Instant::now();
        while is_alive(pid) {
            assert!(begun.elapsed() < START, "RabbitMQ did not stop within {START:?}:\n{}", self.output());
            thread::sleep(Duration::from_millis(50));
        }
        self.kill();
    }

    /// Kills the node with SIGKILL, in the middle of whatever it does.
    pub(crate) fn kill(&self) {
        if let Some(Running { mut keeper, pid }) = self.running().take() {
            keeper.stdin.take().unwrap().write_all(b"keep\n").unwrap();
            keeper.wait().unwrap();
            while is_alive(pid) {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Stops the node's time: its connections stay, and nothing answers.
    pub(crate) fn freeze(&self) {
        signal("STOP", self.pid());
    }

    /// Lets time go on.
    pub(crate) fn thaw(&self) {
        signal("CONT", self.pid());
    }

    /// A vhost that nobody else uses.
    pub(crate) fn vhost(&self) -> String {
        let vhost = format!("test-{}", self.vhosts.fetch_add(1, Ordering::Relaxed));
        self.eval(&format!("rabbit_vhost:add(<<\"{vhost}\">>, <<\"test\">>)."));
        self.permit("guest", &vhost, ".*");
        vhost
    }

    /// Adds a user, who may not use any vhost yet.
    pub(crate) fn add_user(&self, user: &str, password: &str) {
        self.eval(&format!("rabbit_auth_backend_internal:add_user(<<\"{user}\">>, <<\"{password}\">>, <<\"test\">>)."));
    }

    pub(crate) fn change_password(&self, user: &str, password: &str) {
        self.eval(&format!(
            "rabbit_auth_backend_internal:change_password(<<\"{user}\">>, <<\"{password}\">>, <<\"test\">>)."
        ));
    }

    /// Lets a user declare and read everything in a vhost, and write what this pattern matches.
    pub(crate) fn permit(&self, user: &str, vhost: &str, write: &str) {
        self.eval(&format!(
            "rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, <<\"{vhost}\">>, <<\".*\">>, \
             <<\"{write}\">>, <<\".*\">>, <<\"test\">>)."
        ));
    }

    /// Has the node refuse messages that are larger than this many bytes, on channels that are opened from now on.
    pub(crate) fn set_max_message_size(&self, bytes: u32) {
        self.eval(&format!("application:set_env(rabbit, max_message_size, {bytes})."));
    }

    /// The URL of a vhost.
    pub(crate) fn url(&self, vhost: &str) -> String {
        self.url_as("guest", "guest", vhost)
    }

    /// The URL of a vhost for another user.
    pub(crate) fn url_as(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{user}:{password}@{}:{}/{}", self.address(), self.port, vhost.replace('/', "%2f"))
    }

    /// Has the node take TLS on one more port of 127.0.0.1 with this certificate: from clients that `clients` trusts, if
    /// it is given, else from all. Returns the port. This is quick; another node would take seconds.
    pub(crate) fn listen_with_tls(&self, server: &Pair, clients: Option<&Authority>) -> u16 {
        let port = free_port();
        let (certificate, key) = server.write(self.folder.path(), &format!("tls-{port}"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut options = vec![format!("{{certfile, \"{}\"}}, {{keyfile, \"{}\"}}", text(&certificate), text(&key))];
        if let Some(clients) = clients {
            let authority = self.folder.path().join(format!("tls-{port}-clients.pem"));
            fs::write(&authority, &clients.pem).unwrap();
            options.push(format!("{{cacertfile, \"{}\"}}", text(&authority)));
            options.push("{verify, verify_peer}, {fail_if_no_peer_cert, true}".to_owned());
        }
        let options = options.join(", ");
        self.eval(&format!(
            "rabbit_networking:ensure_ssl(), ok = rabbit_networking:start_ssl_listener({{\"127.0.0.1\", {port}}}, [{options}], 2)."
        ));
        port
    }

    /// The URL of a vhost by TLS, on a port from [`Node::listen_with_tls`].
    pub(crate) fn tls_url(&self, port: u16, vhost: &str) -> String {
        self.url(vhost).replace("amqp://", "amqps://").replace(&format!(":{}/", self.port), &format!(":{port}/"))
    }

    /// Has the node take another one for gone after this many seconds without an answer, from the next start on.
    pub(super) fn set_net_ticktime(&self, seconds: u32) {
        let settings = format!("[{{kernel, [{{net_ticktime, {seconds}}}]}}].\n");
        fs::write(self.folder.path().join("advanced.config"), settings).unwrap();
    }

    /// The name by which the other nodes of its cluster know it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was started, and neither stopped nor killed since.
    pub(crate) fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// The address of its host.
    pub(crate) fn address(&self) -> String {
        address_of(self.host.as_ref())
    }

    /// Its host, if it has one of its own.
    pub(super) fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// The port at its address.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Runs an Erlang expression, which ends in a full stop, inside the node.
    pub(crate) fn eval(&self, expression: &str) -> String {
        // Each call has the same name, and a second one at the same time would be refused.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // A hundred times as fast as rabbitmqctl, and it comes with Erlang.
        let mut call = self.command("erl_call");
        call.args(["-c", self.cookie().trim(), "-n", &self.name, "-e"]);
        let Ok(mut child) = call.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            return self.ctl(&["eval", expression]);
        };
        child.stdin.take().unwrap().write_all(format!("{expression}\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            // The node was not reached, as may happen soon after it was troubled; this way takes its time.
            return self.ctl(&["eval", expression]);
        }
        assert!(answer.starts_with("{ok,"), "{expression}\n{answer}");
        answer
    }

    /// Runs rabbitmqctl; most of a second goes by.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.tool("rabbitmqctl", arguments)
    }

    /// Runs rabbitmq-streams, which needs the plugin.
    pub(crate) fn streams(&self, arguments: &[&str]) -> String {
        self.tool("rabbitmq-streams", arguments)
    }

    fn tool(&self, tool: &str, arguments: &[&str]) -> String {
        let output = self.command(scripts().join(tool)).arg("-q").args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{tool} {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let folder = self.folder.path();
        let mut command = match &self.host {
            Some(host) => host.command(program),
            None => Command::new(program),
        };
        command
            .env("HOME", folder)
            .env("ERL_EPMD_ADDRESS", self.address())
            .env("RABBITMQ_USE_LONGNAME", self.host.is_some().to_string())
            .env("ERL_EPMD_PORT", self.names.port().to_string())
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            // Not that of the machine's own node.
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("env.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced"))
            .env("RABBITMQ_PID_FILE", self.pid_file())
            .current_dir(folder);
        command
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.path().join("pid")
    }

    fn pid(&self) -> u32 {
        self.running().as_ref().expect("the node runs").pid
    }

    fn cookie(&self) -> String {
        fs::read_to_string(self.folder.path().join(".erlang.cookie")).unwrap()
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let running = self.running().take();
        if let Some(Running { mut keeper, .. }) = running {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

fn address_of(host: Option<&Host>) -> String {
    host.map_or_else(|| "127.0.0.1".to_owned(), Host::address)
}

fn scripts() -> PathBuf {
    std::env::var_os("RABBITMQ_SCRIPTS").map_or_else(|| PathBuf::from(SCRIPTS), PathBuf::from)
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success(), "SIG{name} to {pid}");
}

/// Whether the process is there and not merely waiting to be reaped by somebody.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// A port on which nobody listens, lower than those that the kernel gives to outgoing connections: a
/// client that knocks at such a port while the node is away may otherwise be connected to itself.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = u16::try_from(std::process::id() % 97).unwrap_or_default() * 100;
        let port = 20_000 + (spread + step) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A node that one test has to itself.
pub(crate) struct Private {
    node: Option<Node>,
    _permit: Permit,
}

/// Nodes that run and wait for their next test.
static IDLE: Mutex<Vec<Node>> = Mutex::new(Vec::new());

impl Deref for Private {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node.as_ref().expect("there until dropped")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let node = self.node.take().filter(|node| !thread::panicking() && node.running().is_some());
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(node);
    }
}

/// The right to use one more node.
struct Permit;

static USED: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Permit {
    fn take() -> Self {
        let used = USED.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = USED.1.wait_while(used, |used| *used >= PRIVATE_NODES).unwrap();
        *used += 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *USED.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        USED.1.notify_one();
    }
}
