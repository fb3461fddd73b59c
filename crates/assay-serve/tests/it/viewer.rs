//! The viewer is complete, works under its content security policy and loads nothing from other
//! servers.

use crate::http::get;
use crate::world::{POSITIONS, Running, models};

#[test]
fn the_viewer_allows_only_itself() {
    let server = Running::default_of(models(None));
    let page = get(&server, "/");
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
    assert!(page.text.contains("/viewer.css") && page.text.contains("/marks.js"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    for (path, kind) in [
        ("/viewer.css", "text/css"),
        ("/marks.js", "text/javascript"),
        ("/viewer.js", "text/javascript"),
    ] {
        let file = get(&server, path);
        assert!(file.header("content-type").unwrap().starts_with(kind));
        assert!(!file.text.is_empty());
    }
    for path in ["/", "/viewer.css", "/marks.js", "/viewer.js"] {
        let text = get(&server, path).text;
        for elsewhere in [
            "http://",
            "https://",
            "//cdn",
            "@import",
            " style=",
            "onclick=",
            "innerHTML",
        ] {
            assert!(!text.contains(elsewhere), "{path}: {elsewhere}");
        }
    }
}

#[test]
fn models_say_how_much_they_read() {
    let server = Running::default_of(models(None));
    let listed = get(&server, "/v1/models").json();
    assert_eq!(listed["data"][0]["max_model_len"], POSITIONS);
}
