//! From transformers' dialect of jinja to minijinja's.

use super::bounds::{FIRM, LOOSE};

/// The source in minijinja's dialect. jinja reads every line end as `\n`. `{% generation %}` marks the assistant's words for
/// training and changes nothing in the text; a `with` block without variables is the same: a scope of its own, and the
/// whitespace control of a tag. What is stored in a namespace is checked, see [`super::bounds`].
pub(super) fn translate(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    // What cannot be read to its end is left as it is, for minijinja to refuse.
    while let Some(after) = next_tag(rest, &mut out) {
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Writes `rest` up to the end of its first tag, comment or expression, and gives what follows.
fn next_tag<'a>(rest: &'a str, out: &mut String) -> Option<&'a str> {
    let at = rest
        .match_indices('{')
        .map(|(at, _)| at)
        .find(|at| rest.get(at + 1..).is_some_and(|s| s.starts_with(['{', '%', '#'])))?;
    let (start, inside) = rest.split_at_checked(at + 2)?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    let after = match start.chars().next_back()? {
        '#' => inside.split_once("#}")?.1,
        '{' => split_tag(inside, "}}")?.1,
        _ if basic_tag(inside, "raw").is_some() => after_raw(basic_tag(inside, "raw")?)?,
        _ => {
            let (tag, after) = split_tag(inside, "%}")?;
            out.push_str(rest.strip_suffix(inside)?);
            write_tag(tag, out);
            // The end of the tag, with its whitespace control.
            out.push_str(inside.strip_prefix(tag)?.strip_suffix(after)?);
            return Some(after);
        }
    };
    out.push_str(rest.strip_suffix(after)?);
    Some(after)
}

/// A tag's inside and what follows its `end`, which counts only outside of strings and brackets.
fn split_tag<'a>(text: &'a str, end: &str) -> Option<(&'a str, &'a str)> {
    let (mut string, mut brackets) = (None, 0_usize);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        let (inside, here) = text.split_at_checked(at)?;
        match (string, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(quote), _) if c == quote => string = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => string = Some(c),
            (None, _) => {
                let close = here.strip_prefix(['-', '+']).unwrap_or(here);
                if let Some(after) = close.strip_prefix(end).filter(|_| brackets == 0) {
                    return Some((inside, after));
                }
                match c {
                    '(' | '[' | '{' => brackets += 1,
                    ')' | ']' | '}' => brackets = brackets.checked_sub(1)?,
                    _ => {}
                }
            }
        }
    }
    None
}

/// What follows `name %}`, if `text` starts with it.
fn basic_tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let text = text.trim_ascii_start().strip_prefix(name)?.trim_ascii_start();
    text.strip_prefix(['-', '+']).unwrap_or(text).strip_prefix("%}")
}

fn after_raw(mut text: &str) -> Option<&str> {
    loop {
        text = text.split_once("{%")?.1;
        if let Some(after) = basic_tag(text.strip_prefix(['-', '+']).unwrap_or(text), "endraw") {
            return Some(after);
        }
    }
}

/// The inside of a tag, without its ends.
fn write_tag(tag: &str, out: &mut String) {
    for (theirs, ours) in [("generation", "with"), ("endgeneration", "endwith")] {
        if tag.trim() == theirs {
            return out.push_str(&tag.replace(theirs, ours));
        }
    }
    let word = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_whitespace() || c == '(');
    let set = tag.trim_start().strip_prefix("set").filter(word).and_then(|set| set.split_once(['=', '|']));
    // Without filters, `{% set a.b %}…{% endset %}` stores a string.
    let Some((targets, value)) = set.filter(|(targets, _)| targets.contains('.')) else { return out.push_str(tag) };
    let before = tag.strip_suffix(value).unwrap_or_default();
    let target = targets.trim();
    out.push_str(&if before.ends_with('|') {
        format!("{tag}|{FIRM}")
    } else if target.contains([',', '(']) {
        format!("{before}({value})|{FIRM}")
    } else {
        // A filter pays for the text it is given and gives, so texts do not go through it.
        format!("{tag}%}}{{% if {target} is {LOOSE} %}}{{% set {target} = {target}|{FIRM} %}}{{% endif ")
    });
}

#[cfg(test)]
mod tests {
    use super::translate;

    const CHECK: &str = "%}{% if a.b is _loose %}{% set a.b = a.b|_firm %}{% endif";

    #[test]
    fn what_a_namespace_is_given_is_checked() {
        for (source, expected) in [
            ("x{%- set a.b = [a.b] -%}\n", format!("x{{%- set a.b = [a.b] {CHECK} -%}}\n")),
            ("{% set a.b = '%}' %}", format!("{{% set a.b = '%}}' {CHECK} %}}")),
            ("{% set a.b = \"\\\"%}\" +%}", format!("{{% set a.b = \"\\\"%}}\" {CHECK} +%}}")),
            ("{% set a.b = {'x': {1: 2}} %}", format!("{{% set a.b = {{'x': {{1: 2}}}} {CHECK} %}}")),
            ("{% set a.b, a = 1, 2 %}", "{% set a.b, a =( 1, 2 )|_firm%}".to_owned()),
            ("{% set a.b | list %}x{% endset %}", "{% set a.b | list |_firm%}x{% endset %}".to_owned()),
            ("{{ '{% set a.b=1 %}' }}{% set\na.b=1%}", format!("{{{{ '{{% set a.b=1 %}}' }}}}{{% set\na.b=1{CHECK} %}}")),
        ] {
            assert_eq!(translate(source), expected);
        }
    }

    #[test]
    fn everything_else_stays() {
        for source in [
            "{% set x = a.b %}{% set a.b %}text{% endset %}{% if a.b == 1 %}{% endif %}{% settle a.b = 1 %}",
            "{# {% set a.b = 1 %} #}{#- {% generation %} -#}",
            "{% raw %}{% set a.b = 1 %}{% generation %}{%- endraw -%}",
            "{{ {'{%': '}}'} }}{{ '{% generation %}' }}",
            "{% set a.b = ] %}{% set a.b = 1 %}",
            "{% set a.b = '%}",
            "{{ '",
            "{#",
            "{% raw %}{% set a.b = 1 %}",
            "{",
        ] {
            assert_eq!(translate(source), source);
        }
        assert_eq!(translate("{%- generation -%}a{% endgeneration +%}"), "{%- with -%}a{% endwith +%}");
        assert_eq!(translate("a\r\nb\rc"), "a\nb\nc");
    }
}
