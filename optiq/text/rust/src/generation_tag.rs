//! `{% generation %} ... {% endgeneration %}`: a tag of transformers around what the
//! model wrote, used to mask a training loss. Here it is only a scope.

/// Writes the tags as `{% with %}` and `{% endwith %}`, their whitespace control kept.
pub fn as_scope(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        result += before;
        // A tag without an end is the parser's to refuse.
        let size = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(size);
        let inside = tag.strip_prefix("{%").and_then(|inside| inside.strip_suffix("%}"));
        let name = inside.map(|inside| inside.trim_matches(['-', '+']).trim());
        match name {
            Some("generation") => result += &tag.replacen("generation", "with", 1),
            Some("endgeneration") => result += &tag.replacen("endgeneration", "endwith", 1),
            _ => result += tag,
        }
        rest = after;
    }
    result + rest
}
