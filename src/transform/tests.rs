//! Whatever the cuts: each stage gives the same for every way to cut its input into pieces.

use std::io::{Read, Write};

use proptest::prelude::*;

use super::*;

type Make = fn() -> Box<dyn Stage>;

/// What a stage makes of a text cut at the given places.
fn through(stage: Box<dyn Stage>, text: &[u8], cuts: &[usize]) -> Result<Vec<u8>, String> {
    let (mut stage, mut out, mut from) = (stage, Vec::new(), 0);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.extend([text.len()]);
    cuts.sort_unstable();
    for cut in cuts {
        stage.push(&text[from..cut], &mut out).map_err(|error| error.to_string())?;
        from = cut;
    }
    stage.end(&mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

fn whole(stage: Box<dyn Stage>, text: &str) -> String {
    let out = through(stage, text.as_bytes(), &[]).expect("no error");
    String::from_utf8(out).expect("UTF-8")
}

fn text(from: &str, to: &str) -> Box<dyn Stage> {
    Box::new(ReplaceText::new(from.as_bytes(), to.into()).expect("a text"))
}

fn regex(pattern: &str, to: &str) -> Box<dyn Stage> {
    let by = Replacement::Template(to.into());
    Box::new(ReplaceRegex::new(pattern, by).expect("an expression"))
}

fn html(rules: Vec<Rule>) -> Box<dyn Stage> {
    Box::new(Html::new(rules, None).expect("rules"))
}

fn rewritten() -> Box<dyn Stage> {
    html(vec![
        Rule::Element(
            "a[href]".into(),
            Box::new(|mut element| {
                let href = element.attribute("href").unwrap_or_default().replace("old", "new");
                element.set_attribute("href", &href)?;
                element.insert(Place::Append, Markup::Text("<!".into()));
                Ok(element)
            }),
        ),
        Rule::Text("p".into(), Box::new(|text| Ok(Verdict::Replace(format!("[{text}]"))))),
    ])
}

fn lines() -> Box<dyn Stage> {
    Box::new(Lines::new(Box::new(|line| {
        Ok(match line {
            "" => Verdict::Drop,
            line if line.contains('a') => Verdict::Replace(line.to_uppercase()),
            _ => Verdict::Keep,
        })
    })))
}

fn events() -> Box<dyn Stage> {
    Box::new(Events::new(Box::new(|event| {
        let data = event.data.as_deref().unwrap_or_default();
        Ok(match data {
            "a" => Verdict::Keep,
            "" => Verdict::Drop,
            data => Verdict::Replace(Event { data: Some(format!("<{data}>")), ..event.clone() }),
        })
    })))
}

const ALL: [Make; 9] = [
    || text("aab", "X"),
    || text("<p>", "<p>a"),
    || regex("a+b|ba{2,}|<[^>]*>", "[$0]"),
    || regex(r"\bab?\b|(?m)^b|é", "<$0>"),
    || regex(r"(?s)<p>.*?</p>|a$", "-"),
    rewritten,
    lines,
    events,
    || Box::new(Pipeline::new(vec![text("a", "bb"), regex("b{2,3}", "c"), lines()])),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_cuts_do_not_matter(
        text in "(a|b|aab|é| |\n|\r\n|\r|<p>|</p>|<a href='old'>|</a>|data: |id:|&amp;|<!--|-->){0,40}",
        cuts in proptest::collection::vec(0..400usize, 0..20),
    ) {
        for (index, make) in ALL.iter().enumerate() {
            let at_once = through(make(), text.as_bytes(), &[]);
            let in_pieces = through(make(), text.as_bytes(), &cuts);
            prop_assert_eq!(&at_once, &in_pieces, "stage {}, text {:?}", index, text);
            let every_byte: Vec<usize> = (0..text.len()).collect();
            prop_assert_eq!(&at_once, &through(make(), text.as_bytes(), &every_byte));
        }
    }

    /// As the ordinary engine does on the whole text.
    #[test]
    fn an_expression_matches_as_ever(
        text in "(a|b|c|é|ß| |\n|1|-){0,60}",
        pattern in "(a|b|é|\\\\b|\\\\B|[ab]|[^a]|a\\*|b\\+\\?|\\(a\\|bc\\)\\{1,3\\}|\\.|\\\\d|\\$|\\^|\\\\w\\+|\\|){1,6}",
        cuts in proptest::collection::vec(0..400usize, 0..20),
    ) {
        let Ok(known) = ::regex::Regex::new(&pattern) else { return Ok(()) };
        let Ok(stage) = ReplaceRegex::new(&pattern, Replacement::Template("<$0>".into())) else {
            return Ok(());
        };
        let expected = known.replace_all(&text, "<$0>").into_owned();
        let got = through(Box::new(stage), text.as_bytes(), &cuts).map(|got| String::from_utf8_lossy(&got).into_owned());
        prop_assert_eq!(got, Ok(expected), "pattern {:?}, text {:?}", pattern, text);
    }

    #[test]
    fn what_is_packed_is_unpacked(
        text in proptest::collection::vec(any::<u8>(), 0..3000),
        cuts in proptest::collection::vec(0..3000usize, 0..6),
    ) {
        for to in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            let mut body = Body::new(Pipeline::default(), None, Some(to)).expect("a body");
            let mut packed = body.take(&text, false).expect("packed");
            packed.extend(body.take(&[], true).expect("packed"));
            let mut body = Body::new(Pipeline::default(), Some(to), None).expect("a body");
            let (mut unpacked, mut from) = (Vec::new(), 0);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (packed.len() + 1)).collect();
            cuts.sort_unstable();
            for cut in cuts {
                unpacked.extend(body.take(&packed[from..cut], false).expect("unpacked"));
                from = cut;
            }
            unpacked.extend(body.take(&packed[from..], true).expect("unpacked"));
            prop_assert_eq!(&unpacked, &text, "{:?}", to);
        }
    }
}

#[test]
fn only_what_may_begin_a_match_is_held_back() {
    let mut out = Vec::new();
    text("http://old.test", "x").push(b"see http://old.", &mut out).expect("no error");
    assert_eq!(out, b"see ");
    out.clear();
    regex("[0-9]{4}", "x").push(b"pay 123", &mut out).expect("no error");
    assert_eq!(out, b"pay ");
}

#[test]
fn a_match_that_is_too_long_is_an_error_and_a_long_line_without_one_is_none() {
    let long = format!("<{}>", "a".repeat(100_000));
    let error = through(regex("<a*>", ""), long.as_bytes(), &[50, 70_000]).expect_err("too long");
    assert_eq!(error, "a match of more than 65536 bytes");
    let open = format!("<{} and a <aaa>", "a".repeat(100_000));
    let out = through(regex("<a*>", "-"), open.as_bytes(), &[50, 70_000]).expect("no error");
    assert!(out.ends_with(b" and a -") && out.len() == open.len() - 4, "{}", out.len());
}

#[test]
fn html_is_bounded() {
    let attribute = format!("<a title='{}'>", "x".repeat(3 << 20));
    let error = through(rewritten(), attribute.as_bytes(), &[9]).expect_err("too long");
    assert_eq!(error, "a tag or a nesting of more than 2097152 bytes");
    let node = format!("<p>{}</p>", "x".repeat(2 << 20));
    let error = through(rewritten(), node.as_bytes(), &[100, 1000]).expect_err("too long");
    assert_eq!(error, "a text node of more than 1048576 bytes");
    let deep = "<p>".repeat(1 << 20);
    through(rewritten(), deep.as_bytes(), &[]).map(drop).unwrap_or_else(|error| {
        assert_eq!(error, "a tag or a nesting of more than 2097152 bytes");
    });
}

#[test]
fn script_text_cannot_be_left() {
    let evil = |with: &'static str| {
        let rule: OnText = Box::new(move |_| Ok(Verdict::Replace(with.to_owned())));
        through(html(vec![Rule::Text("script".into(), rule)]), b"<script>x</script>", &[])
    };
    assert!(evil("</script><b>").is_err() && evil("<!--").is_err());
    assert_eq!(evil("a < b && c").expect("fine"), b"<script>a < b && c</script>");
}

#[test]
fn text_is_shown_whole_and_without_references() {
    let rule: OnText = Box::new(|text| {
        assert_eq!(text, "Tom & Jerry <3");
        Ok(Verdict::Replace("<Tom>".to_owned()))
    });
    let stage = html(vec![Rule::Text("title".into(), rule)]);
    let out = through(stage, b"<title>Tom &amp; Jerry &lt;3</title>", &[9, 12, 15, 20]);
    assert_eq!(String::from_utf8(out.expect("fine")).expect("UTF-8"), "<title>&lt;Tom&gt;</title>");
}

#[test]
fn a_document_keeps_what_is_not_touched() {
    let text =
        r#"{"z": 1.10, "id":12345678901234567890123, "a":{"ssn":"1","b":[ 1, 2 ]},"e":"\u00e9"}"#;
    let document = Value::parse(text).expect("a document");
    assert_eq!(document.to_string(), text);
    assert_eq!(document.get("id").expect("open").expect("there").kind(), Document::Big);
    let inner = document.get("a").expect("open").expect("there");
    assert!(inner.remove("ssn").expect("open"));
    document.set("z", "2").expect("set");
    document.set("new", "[true]").expect("set");
    let id = document.get("id").expect("open").expect("there").to_string();
    document.set("copy", &id).expect("set");
    assert_eq!(
        document.to_string(),
        r#"{"z":2,"id":12345678901234567890123,"a":{"b":[ 1, 2 ]},"e":"\u00e9","new":[true],"copy":12345678901234567890123}"#
    );
}

#[test]
fn a_document_that_is_nested_deep_can_be_dropped() {
    let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let Ok(mut value) = Value::parse(&text) else { return };
    let mut levels = 0;
    while let Ok(Some(inner)) = value.item(0) {
        (value, levels) = (inner, levels + 1);
    }
    assert!(levels <= 128, "{levels}");
}

#[test]
fn events_are_told_apart_by_any_line_end() {
    let given = "data: x\r\n\r\n: ping\n\ndata: a\ndata: b\nid: 7\n\ndata\n\ndata: a\r\r";
    let shown = whole(events(), given);
    assert_eq!(shown, "data: <x>\n\n\n: ping\n\nid: 7\ndata: <a\ndata: b>\n\ndata: a\r\r");
}

#[test]
fn a_bomb_is_bounded() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..200 {
        packer.write_all(&zeros).expect("packed");
    }
    let bomb = packer.finish().expect("packed");
    let mut body = Body::new(Pipeline::default(), Some(Coding::Gzip), None).expect("a body");
    let error = body.take(&bomb, true).expect_err("a bomb");
    assert_eq!(error.to_string(), "a piece that becomes of more than 33554432 bytes");
}

#[test]
fn a_packed_body_that_breaks_off_is_an_error() {
    for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
        let packed = match coding {
            Coding::Deflate => {
                let mut packed = Vec::new();
                let zlib = flate2::read::ZlibEncoder::new(&b"hello hello"[..], Default::default());
                let mut zlib = zlib;
                zlib.read_to_end(&mut packed).expect("packed");
                packed
            }
            coding => {
                let mut body = Body::new(Pipeline::default(), None, Some(coding)).expect("a body");
                body.take(b"hello hello", true).expect("packed")
            }
        };
        let open = || Body::new(Pipeline::default(), Some(coding), None).expect("a body");
        assert_eq!(open().take(&packed, true).expect("whole"), b"hello hello", "{coding:?}");
        let cut = &packed[..packed.len() - 3];
        assert!(open().take(cut, true).is_err(), "{coding:?}");
        assert!(open().take(b"not packed at all", true).is_err(), "{coding:?}");
        assert_eq!(open().take(b"", true).expect("nothing"), b"", "{coding:?}");
    }
}
