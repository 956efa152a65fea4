//! `req.device`: what kind of device a User-Agent names, by a few words that browsers agree on.

/// Words of programs. Whoever says nothing is a program too.
const BOTS: [&str; 12] = [
    "bot",
    "crawl",
    "spider",
    "slurp",
    "headless",
    "curl/",
    "wget/",
    "python",
    "java/",
    "go-http-client",
    "facebookexternalhit",
    "monitor",
];
const TABLETS: [&str; 5] = ["ipad", "tablet", "kindle", "silk/", "playbook"];
const MOBILES: [&str; 6] = ["mobi", "iphone", "ipod", "windows phone", "opera mini", "blackberry"];

pub fn class(agent: &str) -> &'static str {
    let agent = agent.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| agent.contains(word));
    if agent.trim().is_empty() || says(&BOTS) {
        return "bot";
    }
    // Android's browsers say Mobile on telephones only.
    if says(&TABLETS) || agent.contains("android") && !agent.contains("mobi") {
        return "tablet";
    }
    if says(&MOBILES) { "mobile" } else { "desktop" }
}

#[cfg(test)]
mod tests {
    use super::class;

    #[test]
    fn browsers_and_programs_are_told_apart() {
        for (agent, expected) in [
            ("", "bot"),
            ("curl/8.5.0", "bot"),
            ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "bot"),
            (
                "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X) AppleWebKit/537.36 Chrome/125.0 Mobile Safari/537.36 (compatible; Googlebot/2.1)",
                "bot",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile/15E148 Safari/604.1",
                "mobile",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/125.0 Mobile Safari/537.36",
                "mobile",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SM-X710) AppleWebKit/537.36 Chrome/125.0 Safari/537.36",
                "tablet",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile/15E148 Safari/604.1",
                "tablet",
            ),
            ("Mozilla/5.0 (Android 14; Tablet; rv:126.0) Gecko/126.0 Firefox/126.0", "tablet"),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0", "desktop"),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/125.0 Safari/537.36",
                "desktop",
            ),
        ] {
            assert_eq!(class(agent), expected, "{agent}");
        }
    }
}
