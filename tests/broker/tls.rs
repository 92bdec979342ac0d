//! TLS with a broker: whom we trust, who we are, and what is said where either is wrong.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex};

use file_watcher::sink::{Amqp, Deliver, Reread, Tls};
use tokio::process::Command;
use tokio::time::timeout;

use crate::refusals::refusal;
use crate::support::certificates::{Authority, Pair};
use crate::support::consumer::Consumer;
use crate::support::created;
use crate::support::rabbit::Node;
use crate::{LIMIT, settings};

/// The shared node with TLS on three more ports.
struct Encrypted {
    authority: Authority,
    client: Pair,
    /// Takes everybody.
    port: u16,
    /// Shows a certificate for another name.
    misnamed: u16,
    /// Takes nobody without a certificate.
    closed: u16,
}

static ENCRYPTED: LazyLock<Encrypted> = LazyLock::new(|| {
    let node = Node::shared();
    let authority = Authority::new("the test's authority");
    let server = authority.server(&["localhost", "127.0.0.1"]);
    Encrypted {
        port: node.listen_with_tls(&server, None),
        misnamed: node.listen_with_tls(&authority.server(&["elsewhere.example"]), None),
        closed: node.listen_with_tls(&server, Some(&authority)),
        client: authority.client("file-watcher"),
        authority,
    }
});

impl Encrypted {
    fn trusted(&self) -> Tls {
        Tls::default().with_authorities(self.authority.pem.as_bytes()).unwrap()
    }
}

fn sink(port: u16, vhost: &str, tls: Tls) -> Amqp {
    let mut settings = settings(&Node::shared().tls_url(port, vhost));
    settings.tls = tls;
    Amqp::new(settings)
}

async fn delivers(port: u16, tls: Tls) {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let mut sink = sink(port, &vhost, tls);
    timeout(LIMIT, sink.deliver(&created(1..=200))).await.expect("delivered").unwrap();
    assert_eq!(consumer.expect(200, LIMIT).await.len(), 200);
    sink.close().await;
}

async fn is_refused(port: u16, tls: Tls) -> String {
    let sink = sink(port, "/", tls);
    let reason = refusal(&sink).await;
    sink.close().await;
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_delivered_over_tls_to_a_broker_whose_authority_is_given() {
    delivers(ENCRYPTED.port, ENCRYPTED.trusted()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_not_known_is_refused_by_the_setting_that_mends_it() {
    let another = Tls::default().with_authorities(Authority::new("another").pem.as_bytes()).unwrap();
    for tls in [Tls::default(), another] {
        let reason = is_refused(ENCRYPTED.port, tls).await;
        assert!(reason.contains("RABBITMQ_CA_FILE") && reason.contains("authority"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_were_replaced_are_used_for_the_next_connection() {
    let another = Authority::new("another");
    let stale = Tls::default().with_authorities(another.pem.as_bytes()).unwrap();
    let node = Node::shared();
    let mut settings = settings(&node.tls_url(ENCRYPTED.closed, &node.vhost()));
    let current = Arc::new(Mutex::new(stale));
    settings.reread = Some(Reread::new({
        let (broker, current) = (settings.broker.clone(), Arc::clone(&current));
        move || Ok((broker.clone(), current.lock().unwrap().clone()))
    }));
    let mut sink = Amqp::new(settings);
    assert!(refusal(&sink).await.contains("RABBITMQ_CA_FILE"));
    let Pair { certificate, key } = &ENCRYPTED.client;
    let renewed = ENCRYPTED.trusted().with_identity(certificate.as_bytes(), key.as_bytes()).unwrap();
    *current.lock().unwrap() = renewed;
    timeout(LIMIT, sink.connect()).await.expect("let in").unwrap();
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let reason = is_refused(ENCRYPTED.misnamed, ENCRYPTED.trusted()).await;
    assert!(reason.contains("is not valid for the name \"127.0.0.1\"") && reason.contains("RABBITMQ_URL"), "{reason}");
    assert!(reason.contains("elsewhere.example"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_who_we_are_is_shown_our_certificate() {
    let Pair { certificate, key } = &ENCRYPTED.client;
    let tls = ENCRYPTED.trusted().with_identity(certificate.as_bytes(), key.as_bytes()).unwrap();
    delivers(ENCRYPTED.closed, tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_who_we_are_and_is_told_nothing_names_the_settings() {
    let reason = is_refused(ENCRYPTED.closed, ENCRYPTED.trusted()).await;
    assert!(reason.contains("RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE"), "{reason}");
    assert!(reason.contains("requires a client certificate"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_ours_that_the_broker_does_not_trust_names_the_settings() {
    let Pair { certificate, key } = Authority::new("another").client("file-watcher");
    let tls = ENCRYPTED.trusted().with_identity(certificate.as_bytes(), key.as_bytes()).unwrap();
    let reason = is_refused(ENCRYPTED.closed, tls).await;
    assert!(reason.contains("RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE"), "{reason}");
    assert!(reason.contains("does not accept the client certificate"), "{reason}");
}

/// Runs the whole program on a library of one file; returns its exit code and what it said.
async fn scan(folder: &Path, variables: &[(&str, &Path)]) -> (Option<i32>, String) {
    let music = folder.join("music");
    fs::create_dir_all(&music).unwrap();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/mp3/tagged-id3v24.mp3");
    fs::copy(fixture, music.join("one.mp3")).unwrap();
    let program = Command::new(env!("CARGO_BIN_EXE_file-watcher"))
        .arg("scan")
        .env_clear()
        .env("DATA_DIR", music)
        .env("STATE_DIR", folder.join("state"))
        .env("SETTLE_MS", "100")
        .envs(variables.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(LIMIT, program).await.expect("it ends").unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_program_takes_its_url_its_password_and_its_certificates_from_files() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    node.eval(r#"rabbit_auth_backend_internal:add_user(<<"dora">>, <<"hunter2">>, <<"test">>)."#);
    node.eval(&format!(
        "rabbit_auth_backend_internal:set_permissions(<<\"dora\">>, <<\"{vhost}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>)."
    ));
    let folder = tempfile::tempdir().unwrap();
    let url = format!("amqps://dora@127.0.0.1:{}/{vhost}\n", ENCRYPTED.closed);
    fs::write(folder.path().join("url"), url).unwrap();
    fs::write(folder.path().join("password"), "hunter2\n").unwrap();
    fs::write(folder.path().join("authority.pem"), &ENCRYPTED.authority.pem).unwrap();
    let (certificate, key) = ENCRYPTED.client.write(folder.path(), "client");
    let variables = [
        ("RABBITMQ_URL_FILE", Path::new("url")),
        ("RABBITMQ_PASS_FILE", Path::new("password")),
        ("RABBITMQ_CA_FILE", Path::new("authority.pem")),
        ("RABBITMQ_CERT_FILE", &certificate),
        ("RABBITMQ_KEY_FILE", &key),
    ];
    let (code, said) = scan(folder.path(), &variables).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("hunter2") && !said.contains("PRIVATE KEY"), "{said}");
    assert_eq!(consumer.expect(1, LIMIT).await[0].routing_key, "file.created");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_program_trusts_whom_the_system_trusts_and_refuses_others_with_two() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let folder = tempfile::tempdir().unwrap();
    let (url, authority) = (folder.path().join("url"), folder.path().join("system.pem"));
    fs::write(&url, node.tls_url(ENCRYPTED.port, &vhost)).unwrap();
    fs::write(&authority, &Authority::new("another").pem).unwrap();
    // Where this variable says, the system keeps its authorities.
    let variables = [("RABBITMQ_URL_FILE", url.as_path()), ("SSL_CERT_FILE", authority.as_path())];
    let (code, said) = scan(folder.path(), &variables).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("RABBITMQ_CA_FILE") && said.contains("UnknownIssuer"), "{said}");

    fs::write(&authority, &ENCRYPTED.authority.pem).unwrap();
    let (code, said) = scan(folder.path(), &variables).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(consumer.expect(1, LIMIT).await[0].routing_key, "file.created");

    // A system that trusts nobody: the given authority is enough, and without one it is said.
    fs::write(&authority, "").unwrap();
    let (code, said) = scan(folder.path(), &variables).await;
    assert_eq!((code, said.contains("trusts no authority")), (Some(2), true), "{said}");
    let given = folder.path().join("given.pem");
    fs::write(&given, &ENCRYPTED.authority.pem).unwrap();
    let with_given = [variables[0], variables[1], ("RABBITMQ_CA_FILE", given.as_path())];
    let (code, said) = scan(folder.path(), &with_given).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_speaks_tls_only_is_named_to_one_who_speaks_none() {
    let url = Node::shared().tls_url(ENCRYPTED.port, "/").replace("amqps://", "amqp://");
    let sink = crate::sink(&url);
    let reason = refusal(&sink).await;
    assert!(reason.contains("amqps"), "{reason}");
}
