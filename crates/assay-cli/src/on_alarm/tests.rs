use std::io::{BufRead, BufReader};
use std::net::TcpListener;

use assay_evals::AlarmKind;
use serde_json::Value;

use super::*;

const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(20);

fn alarm() -> Alarm {
    Alarm {
        kind: AlarmKind::EntropyCollapse,
        iteration: 12.0,
        value: 0.25,
        threshold: 0.5,
    }
}

fn tell(action: &str, limit: Duration) -> Result<(), String> {
    let action: OnAlarm = action.parse().unwrap();
    action.tell_within(&alarm(), Path::new("runs/one"), limit)
}

/// The error of a command that is killed long before it would have ended.
fn refused_soon(action: &str) -> String {
    let started = Instant::now();
    let said = tell(action, SHORT).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(6), "{action}");
    said
}

#[test]
fn a_command_reads_the_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("alarm.json");
    tell(&format!("cat > '{}'", file.display()), LONG).unwrap();
    let value: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let expected = json!({
        "run": "runs/one", "alarm": "entropy_collapse", "headline": "entropy collapse",
        "iteration": 12, "value": 0.25, "threshold": 0.5,
        "advice": AlarmKind::EntropyCollapse.advice(),
    });
    assert_eq!(value, expected);
    tell("true", LONG).unwrap();
}

#[test]
fn a_failing_command_is_explained() {
    let said = tell("echo 'no\u{1b}[31m mail' >&2; exit 3", LONG).unwrap_err();
    assert!(
        said.contains('3') && said.ends_with(": no [31m mail"),
        "{said}"
    );
    let said = tell("no-such-command-of-any-kind", LONG).unwrap_err();
    assert!(said.contains("127"), "{said}");
}

/// `sleep` is a child of the shell. It holds stderr open, so it must be killed too.
#[test]
fn a_hanging_command_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("late");
    let command = format!("(sleep 2; echo late > '{}') | cat", file.display());
    let said = refused_soon(&command);
    assert!(said.contains("is killed"), "{said}");
    std::thread::sleep(Duration::from_secs(3));
    assert!(!file.exists(), "the command went on after it was killed");
}

#[test]
fn a_flooding_command_is_bounded() {
    let said = refused_soon("yes >&2");
    assert!(
        said.contains("is killed") && said.len() < SHOWN + 100,
        "{said}"
    );
    refused_soon("yes");
    let said = tell("yes | head -c 3000000 >&2; exit 1", LONG).unwrap_err();
    assert!(said.contains("y y y") && said.len() < SHOWN + 100, "{said}");
}

/// A server that reads one request and then does `then` with the connection; returns its address
/// and what it read.
fn server(
    then: impl FnOnce(&mut std::net::TcpStream) + Send + 'static,
) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?key=secret", listener.local_addr().unwrap());
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let _ = send.send(format!("{head}\n{}", String::from_utf8(body).unwrap()));
        then(&mut stream);
    });
    (url, receive)
}

fn answer(text: &'static str) -> impl FnOnce(&mut std::net::TcpStream) + Send + 'static {
    move |stream| stream.write_all(text.as_bytes()).unwrap()
}

#[test]
fn a_webhook_receives_the_alarm() {
    let (url, heard) = server(answer("HTTP/1.1 204 No Content\r\n\r\n"));
    tell(&url, LONG).unwrap();
    let heard = heard.recv_timeout(LONG).unwrap();
    let (head, body) = heard.split_once("\n\n").unwrap();
    assert!(head.starts_with("POST /hook?key=secret HTTP/1.1"), "{head}");
    assert!(
        head.to_lowercase()
            .contains("content-type: application/json"),
        "{head}"
    );
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["alarm"], "entropy_collapse");
}

#[test]
fn a_webhook_that_fails_is_explained() {
    let moved = "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    for (text, status) in [
        ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", "500"),
        (moved, "302"),
    ] {
        let (url, _heard) = server(answer(text));
        let said = tell(&url, LONG).unwrap_err();
        assert!(said.contains(status) && !said.contains("secret"), "{said}");
    }
    let said = tell("http://127.0.0.1:9/secret", LONG).unwrap_err();
    assert!(
        said.contains("no connection") && !said.contains("secret"),
        "{said}"
    );
}

#[test]
fn a_stalling_webhook_is_given_up() {
    let (url, _heard) = server(|_| std::thread::sleep(LONG));
    let said = refused_soon(&url);
    assert!(said.contains("does not answer"), "{said}");
    // Headers that never end.
    let (url, _heard) = server(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x: y\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    refused_soon(&url);
}

#[test]
fn addresses_and_commands_are_told_apart() {
    let parsed = |text: &str| text.parse::<OnAlarm>();
    assert_eq!(
        parsed("mail me"),
        Ok(OnAlarm::Command("mail me".to_owned()))
    );
    let url = "HTTPS://example.org/x";
    assert_eq!(parsed(url), Ok(OnAlarm::Webhook(url.to_owned())));
    for wrong in ["", "  ", "http://", "https:///x", "http://a b"] {
        assert!(parsed(wrong).is_err(), "{wrong:?}");
    }
}
