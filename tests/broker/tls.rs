//! TLS with a broker: which certificates each side accepts, and the messages if one is refused.

use std::fs;
use std::sync::{Arc, LazyLock, Mutex};

use file_watcher::sink::{Amqp, Deliver, Reread, Tls};
use tokio::time::timeout;

use crate::refusals::refusal;
use crate::support::certificates::{Authority, Pair};
use crate::support::consumer::Consumer;
use crate::support::created;
use crate::support::process::Ended;
use crate::support::program::Program;
use crate::support::rabbit::Node;
use crate::{LIMIT, settings};

/// The shared node with TLS on three more ports.
struct Encrypted {
    authority: Authority,
    client: Pair,
    /// Takes clients without a certificate.
    port: u16,
    /// Presents a certificate for another name.
    misnamed: u16,
    /// Takes only clients with a certificate.
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
async fn an_authority_that_is_not_known_is_refused_and_the_setting_for_it_is_named() {
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
async fn the_name_that_a_certificate_must_have_is_that_of_the_address_in_use() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let one = format!("127.0.0.1:{}", ENCRYPTED.port);
    // The certificate at this port is valid for no address of the list.
    let other = format!("localhost:{}", ENCRYPTED.misnamed);
    let mut settings = settings(&format!("amqps://guest:guest@{other},{one}/{vhost}"));
    settings.tls = ENCRYPTED.trusted();
    let mut right = Amqp::new(settings.clone());
    timeout(LIMIT, right.deliver(&created(1..=10))).await.expect("delivered").unwrap();
    assert_eq!(right.status().node(), Some(one));
    consumer.expect(10, LIMIT).await;
    right.close().await;

    settings.broker = format!("amqps://127.0.0.1:{0},{other}/{vhost}", ENCRYPTED.misnamed).parse().unwrap();
    let wrong = Amqp::new(settings);
    let reason = refusal(&wrong).await;
    assert!(reason.contains("is not valid for the name"), "{reason}");
    wrong.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_for_a_certificate_gets_ours() {
    let Pair { certificate, key } = &ENCRYPTED.client;
    let tls = ENCRYPTED.trusted().with_identity(certificate.as_bytes(), key.as_bytes()).unwrap();
    delivers(ENCRYPTED.closed, tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_are_named_if_a_broker_asks_for_a_certificate_and_there_is_none() {
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

/// The whole program with a library of one file, and no broker yet.
fn program() -> Program {
    let mut program = Program::new("");
    program.launcher.unset("RABBITMQ_URL");
    program.add("mp3/tagged-id3v24.mp3", "one.mp3");
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_program_takes_its_url_its_password_and_its_certificates_from_files() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    node.add_user("dora", "hunter2");
    node.permit("dora", &vhost, ".*");
    let mut program = program();
    let url = format!("amqps://dora@127.0.0.1:{}/{vhost}\n", ENCRYPTED.closed);
    fs::write(program.place("url"), url).unwrap();
    fs::write(program.place("password"), "hunter2\n").unwrap();
    fs::write(program.place("authority.pem"), &ENCRYPTED.authority.pem).unwrap();
    let (certificate, key) = ENCRYPTED.client.write(&program.place(""), "client");
    program.launcher.set("RABBITMQ_CERT_FILE", certificate).set("RABBITMQ_KEY_FILE", key);
    program
        .set("RABBITMQ_URL_FILE", "url")
        .set("RABBITMQ_PASS_FILE", "password")
        .set("RABBITMQ_CA_FILE", "authority.pem");
    let Ended { log, .. } = program.scan().await;
    assert!(!log.contains("hunter2") && !log.contains("PRIVATE KEY"), "{log}");
    assert_eq!(consumer.expect(1, LIMIT).await[0].routing_key, "file.created");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_program_trusts_whom_the_system_trusts_and_refuses_others_with_two() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let mut program = program();
    let (url, authorities) = (program.place("url"), program.place("system.pem"));
    fs::write(&url, node.tls_url(ENCRYPTED.port, &vhost)).unwrap();
    fs::write(&authorities, &Authority::new("another").pem).unwrap();
    // The second variable names the file with the system's authorities.
    program.launcher.set("RABBITMQ_URL_FILE", url).set("SSL_CERT_FILE", &authorities);
    let Ended { code, log, .. } = program.run(&["scan"]).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("RABBITMQ_CA_FILE") && log.contains("UnknownIssuer"), "{log}");

    fs::write(&authorities, &ENCRYPTED.authority.pem).unwrap();
    program.scan().await;
    assert_eq!(consumer.expect(1, LIMIT).await[0].routing_key, "file.created");

    // If the system trusts nobody, the given authority is enough, and without one the log says what is missing.
    fs::write(&authorities, "").unwrap();
    // A scan without a message may end before it has tried to connect.
    program.write("another.mp3", "another");
    let Ended { code, log, .. } = program.run(&["scan"]).await;
    assert_eq!((code, log.contains("trusts no authority")), (Some(2), true), "{log}");
    let given = program.place("given.pem");
    fs::write(&given, &ENCRYPTED.authority.pem).unwrap();
    program.launcher.set("RABBITMQ_CA_FILE", given);
    program.scan().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_speaks_tls_only_is_named_to_one_who_speaks_none() {
    let url = Node::shared().tls_url(ENCRYPTED.port, "/").replace("amqps://", "amqp://");
    let sink = crate::sink(&url);
    let reason = refusal(&sink).await;
    assert!(reason.contains("amqps"), "{reason}");
}
