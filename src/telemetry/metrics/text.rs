//! The text format of Prometheus, for families that are too long to be held whole.

use std::fmt::Write;

/// A name, what it means, and how it moves.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    /// One sentence, without a backslash or a line break.
    pub help: &'static str,
    pub kind: Kind,
}

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Up only, from 0 at the start of the process.
    Counter,
    /// Up and down.
    Gauge,
}

impl Family {
    /// Writes the lines before the family's values.
    pub fn write_head(&self, text: &mut String) {
        let Self { name, help, kind } = self;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes all");
    }

    /// Writes the line of one value.
    pub fn write_value<'a>(
        &self,
        text: &mut String,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
    ) {
        text.push_str(self.name);
        let mut before = '{';
        for (name, value) in labels {
            text.push(before);
            text.push_str(name);
            text.push_str("=\"");
            write_escaped(text, value);
            text.push('"');
            before = ',';
        }
        if before == ',' {
            text.push('}');
        }
        writeln!(text, " {value}").expect("a string takes all");
    }
}

fn write_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_a_family_has_its_head() {
        let family = Family { name: "up", help: "Whether it is.", kind: Kind::Gauge };
        let mut text = String::new();
        family.write_head(&mut text);
        family.write_value(&mut text, [("a", "x\\\"\ny"), ("b", "")], 1.0);
        family.write_value(&mut text, [], 0.25);
        let head = "# HELP up Whether it is.\n# TYPE up gauge\n";
        assert_eq!(text, format!("{head}up{{a=\"x\\\\\\\"\\ny\",b=\"\"}} 1\nup 0.25\n"));
    }
}
