//! Spans reach a collector, and messages have their ids.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;

use crate::LIMIT;
use crate::program::Program;

/// A collector: its URL, and the bodies of the requests to `/v1/traces`. It ends with the test.
fn collector() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, bodies) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                loop {
                    let (mut first, mut length) = (String::new(), 0);
                    if reader.read_line(&mut first).unwrap_or(0) == 0 {
                        return;
                    }
                    loop {
                        let mut line = String::new();
                        reader.read_line(&mut line).unwrap();
                        let line = line.trim().to_lowercase();
                        if line.is_empty() {
                            break;
                        }
                        if let Some(value) = line.strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    assert!(first.starts_with("POST /v1/traces "), "{first}");
                    let _ = sender.send(serde_json::from_slice(&body).unwrap());
                    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
                    reader.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    (url, bodies)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_a_span_whose_ids_are_in_its_header() {
    let (url, bodies) = collector();
    let mut program = Program::new().await;
    program.set("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
    let running = program.watch().await;
    program.write("a.mp3", "one");
    let message = program.consumer().await.expect(1, LIMIT).await.remove(0);
    let header = message.header("traceparent").unwrap();
    let mut ids = header.split('-').skip(1);
    let (trace_id, span_id) = (ids.next().unwrap(), ids.next().unwrap());
    assert_eq!(trace_id, message.message_id().replace('-', ""));

    let body = tokio::task::block_in_place(|| bodies.recv_timeout(LIMIT).unwrap());
    let scope = &body["resourceSpans"][0]["scopeSpans"][0];
    let span = &scope["spans"][0];
    assert_eq!((&span["traceId"], &span["spanId"]), (&trace_id.into(), &span_id.into()), "{body}");
    assert_eq!(span["name"], "file.created");
    let time = |field: &str| span[field].as_str().unwrap().parse::<u64>().unwrap();
    let took = time("endTimeUnixNano") - time("startTimeUnixNano");
    assert!((50_000_000..60_000_000_000).contains(&took), "from the event, at least the debounce of 50 ms: {took}");
    running.stop().await;

    // Nothing waits for a collector that is away, and without one there is no header.
    program.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    program.write("b.mp3", "two");
    let scanned = program.run(&["scan"]).await;
    assert!(scanned.code == Some(0) && scanned.log.contains("traces cannot be sent"), "{scanned:?}");
    program.launcher.unset("OTEL_EXPORTER_OTLP_ENDPOINT");
    program.write("c.mp3", "three");
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    let rest = program.consumer().await.expect(2, LIMIT).await;
    assert!(rest[0].header("traceparent").is_some() && rest[1].header("traceparent").is_none());
}
