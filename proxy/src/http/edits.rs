//! Changes of fields that a route asks for.

use portolan_model::traffic::HeaderEdit;

use crate::message::Fields;

/// Makes changes in their order.
pub(super) fn apply(edits: &[HeaderEdit], fields: &mut Fields) {
    for edit in edits {
        match edit {
            HeaderEdit::Remove(name) => fields.remove_named(name.as_bytes()),
            HeaderEdit::Add(name, value) => fields.push(name.as_bytes(), value.as_bytes()),
            HeaderEdit::AddIfAbsent(name, value) => {
                if fields.named(name.as_bytes()).is_none() {
                    fields.push(name.as_bytes(), value.as_bytes());
                }
            }
            HeaderEdit::Set(name, value) => {
                fields.remove_named(name.as_bytes());
                fields.push(name.as_bytes(), value.as_bytes());
            }
            HeaderEdit::Replace(name, value) => {
                if fields.named(name.as_bytes()).is_some() {
                    fields.remove_named(name.as_bytes());
                    fields.push(name.as_bytes(), value.as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_does_what_it_says_in_its_turn() {
        let pair = |name: &str, value: &str| (name.into(), value.into());
        let add = |name, value| {
            let (name, value) = pair(name, value);
            HeaderEdit::Add(name, value)
        };
        let absent = |name, value| {
            let (name, value) = pair(name, value);
            HeaderEdit::AddIfAbsent(name, value)
        };
        let set = |name, value| {
            let (name, value) = pair(name, value);
            HeaderEdit::Set(name, value)
        };
        let replace = |name, value| {
            let (name, value) = pair(name, value);
            HeaderEdit::Replace(name, value)
        };
        for (edits, expected) in [
            (vec![HeaderEdit::Remove("x-a".into())], vec![("x-b", "3")]),
            (vec![add("x-b", "4")], vec![("X-A", "1"), ("x-a", "2"), ("x-b", "3"), ("x-b", "4")]),
            (vec![absent("x-b", "4")], vec![("X-A", "1"), ("x-a", "2"), ("x-b", "3")]),
            (vec![set("x-a", "9")], vec![("x-b", "3"), ("x-a", "9")]),
            (vec![replace("x-a", "9")], vec![("x-b", "3"), ("x-a", "9")]),
            (vec![replace("x-c", "9")], vec![("X-A", "1"), ("x-a", "2"), ("x-b", "3")]),
            (
                vec![HeaderEdit::Remove("x-a".into()), absent("x-a", "7"), set("x-b", "8")],
                vec![("x-a", "7"), ("x-b", "8")],
            ),
        ] {
            let mut fields = Fields::default();
            for (name, value) in [("X-A", "1"), ("x-a", "2"), ("x-b", "3")] {
                fields.push(name.as_bytes(), value.as_bytes());
            }
            apply(&edits, &mut fields);
            let mut wanted = Fields::default();
            expected
                .iter()
                .for_each(|(name, value)| wanted.push(name.as_bytes(), value.as_bytes()));
            assert_eq!(fields, wanted, "{edits:?}");
        }
    }
}
