//! The report for people: one page that needs nothing else.
//!
//! Owns the words and the order: a sentence for whoever has five seconds, the pictures, the figures, and how they
//! were made. Promises to name no file, script or font from elsewhere. Fails as [`super::charts`] does.

use std::error::Error;
use std::fmt::Write;

use plotters::style::RGBColor;

use crate::charts::{COLORS, FAILED, PARTLY, SERVED, Scene};
use crate::contenders::{BUDGET, Contender};
use crate::stage::Stage;
use crate::table::{HEAD, cells, number};
use crate::timeline::{RATE, Recording};
use crate::verdict::{Promise, Row};

/// What goes on the page.
pub struct Page<'a> {
    pub sentence: String,
    pub stage: &'a Stage,
    pub contenders: &'a [Contender],
    pub rows: &'a [Row],
    pub promises: &'a [Promise],
    pub recording: &'a Recording,
}

impl Page<'_> {
    /// The whole page.
    pub fn render(&self) -> Result<String, Box<dyn Error + Send + Sync>> {
        let scene = Scene {
            run: self.recording,
            contenders: self.contenders,
            story: self.stage.story,
        };
        let story = self.stage.story;
        let outage = self.recording.outage().as_secs_f64();
        let kills = self.recording.told_kills().unwrap_or_default();
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <title>{} for {outage:.0} s</title><style>{STYLE}</style></head><body>\n\
             <h1>{}</h1>\n<p class=\"lead\">{}, for {outage:.1} s. {kills} Four services, {RATE} requests/s each, went \
             through it side by side; a request that failed or took longer than {} ms counts as failed.</p>\n{}",
            story.title(),
            escaped(&self.sentence),
            story.lead(),
            BUDGET.as_millis(),
            self.cards(),
        );
        let served = [
            (SERVED, "all served in time"),
            (PARTLY, "some failed"),
            (FAILED, "all failed or too late"),
        ];
        page += &section("What users saw", &served, "", &scene.status()?);
        let slowest = [(SERVED, "served in time"), (FAILED, "failed or too late")];
        let note = "The slowest request of each tenth of a second; the dashed line is the budget, the shade the \
                    time in which nobody could know where Redis was. The scale is logarithmic.";
        page += &section("Latency over time", &slowest, note, &scene.latency()?);
        let note =
            "What piles up in each service: the memory and the sockets of requests that hang.";
        page += &section("Requests waiting", &[], note, &scene.outstanding()?);
        page += &self.table();
        page += &self.promises();
        page += &self.method();
        page += "</body></html>\n";
        Ok(page)
    }

    /// One card per service: the figure that hurts, and whether it came back.
    fn cards(&self) -> String {
        let mut text = String::from("<div class=\"cards\">");
        for (row, color) in self.rows.iter().zip(COLORS) {
            let back = row.recovery.map_or_else(
                || "never recovered".to_owned(),
                |took| {
                    format!(
                        "back {:.1} s {}",
                        took.as_secs_f64(),
                        self.stage.story.after()
                    )
                },
            );
            let _ = write!(
                text,
                "<div style=\"border-top-color:{}\"><b>{}</b><span class=\"big\">{:.1} s</span> failed<br>{back}<br>\
                 users waited {:.0} s in vain<br>up to {} requests stuck</div>",
                css(color),
                row.name,
                row.failed_seconds,
                row.in_vain.as_secs_f64(),
                row.peak_outstanding,
            );
        }
        text + "</div>\n"
    }

    fn table(&self) -> String {
        let head = HEAD.map(|word| format!("<th>{word}</th>")).concat();
        let mut text = format!("<h2>Figures</h2>\n<table><tr><th></th>{head}</tr>\n");
        for row in self.rows {
            let cells = cells(row).map(|cell| format!("<td>{cell}</td>")).concat();
            let _ = writeln!(text, "<tr><th>{}</th>{cells}</tr>", row.name);
        }
        text + "</table>\n<p class=\"note\">failed: seconds of traffic; told in: from the onset until the first request was told of a failure; refused: from \
                the onset until no request was left waiting, only refused (- is never); back in: from the end of the fault until 99 % \
                were served to the end; peak: requests waiting at once; late: over the budget by more than 10 ms, \
                whatever came of it; in vain: the time that requests waited to fail, all added up; lookups: DNS questions asked in the whole run.</p>\n"
    }

    fn promises(&self) -> String {
        let mut text = String::from(
            "<h2>What redis-holdfast promises</h2>\n\
             <table><tr><th>promise</th><th>limit</th><th>measured</th><th></th></tr>\n",
        );
        for promise in self.promises {
            let measured = promise.measured.map_or_else(|| "never".to_owned(), number);
            let held = if promise.held() {
                "held"
            } else {
                "<b class=\"broke\">broke</b>"
            };
            let _ = writeln!(
                text,
                "<tr><th>{}</th><td>{}</td><td>{measured}</td><td>{held}</td></tr>",
                promise.id,
                number(promise.limit)
            );
        }
        text + "</table>\n<p class=\"note\">Less the lag of this machine, measured beside the load.</p>\n"
    }

    /// How it was done, so that nobody has to believe it.
    fn method(&self) -> String {
        let mut text = format!(
            "<h2>How it was measured</h2>\n<p>Server: {}, behind a fault proxy in each address range (Redis at {}, in the end \
             at {}). Open loop: a request is due every {} ms whatever became of those before, and its latency counts from then. Half \
             are SET, half GET of what was set; values are unique, so a wrong reply is seen. The black hole is made on \
             loopback: SYNs are dropped by the kernel, open connections are held and never reset. Loopback goes on \
             acknowledging what was sent, so TCP's own timeouts play no part.</p>\n<dl>",
            escaped(&self.stage.server_in_words()),
            self.recording.places.0,
            self.recording.places.1,
            1000 / RATE,
        );
        for one in self.contenders {
            let _ = write!(text, "<dt>{}</dt><dd>{}</dd>", one.name, escaped(one.setup));
        }
        let versions = VERSIONS
            .map(|name| format!("{name} {}", version(name)))
            .join(", ");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let _ = write!(
            text,
            "</dl>\n<p>Versions: {versions}. {cores} cores, {}.</p>\n",
            std::env::consts::OS
        );
        text
    }
}

fn section(title: &str, legend: &[(RGBColor, &str)], note: &str, svg: &str) -> String {
    let key = |(color, text): &(RGBColor, &str)| {
        format!(
            "<span><i style=\"background:{}\"></i>{text}</span>",
            css(*color)
        )
    };
    let keys: String = legend.iter().map(key).collect();
    format!("<h2>{title}</h2>\n<p class=\"note\">{note}</p>\n<p class=\"keys\">{keys}</p>\n{svg}\n")
}

/// From the lock file this was built with.
fn version(package: &str) -> &'static str {
    let name = format!("name = \"{package}\"\nversion = \"");
    let found = LOCK
        .split_once(&name)
        .and_then(|(_, rest)| rest.split_once('"'));
    found.map_or("of unknown version", |(version, _)| version)
}

fn css(color: RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", color.0, color.1, color.2)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

const LOCK: &str = include_str!("../../Cargo.lock");
const VERSIONS: [&str; 4] = ["redis-holdfast", "redis", "deadpool-redis", "tokio"];
const STYLE: &str = include_str!("report.css");
