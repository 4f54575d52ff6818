//! Variable envelope return paths made by the server, as Postfix does it (`XVERP`): the sender of each recipient names
//! that recipient, so that a bounce tells whose it is. `list@d` and `user@domain` make `list+user=domain@d`.

use zrelay_wire::{Address, ForwardPath, Verp};

/// The sender of mail to `recipient`.
pub(super) fn verp_sender(sender: &Address, recipient: &ForwardPath, delimiters: Verp) -> String {
    let (user, domain) = match recipient {
        ForwardPath::Address(address) => (address.local(), Some(address.domain())),
        ForwardPath::Postmaster(name) => (name.as_ref(), None),
    };
    let (list, user) = (unquoted(sender.local()), unquoted(user));
    let mut local = String::with_capacity(list.len() + user.len() + domain.map_or(0, str::len) + 2);
    local.push_str(&list);
    local.push(char::from(delimiters.separator));
    local.push_str(&user);
    if let Some(domain) = domain {
        local.push(char::from(delimiters.equals));
        local.push_str(domain);
    }
    format!("{}@{}", quoted_where_needed(local), sender.domain())
}

/// A local part as its owner means it: a quoted string without the quotes and backslashes (RFC 5321 §4.1.2).
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        let meant = if character == '\\' { characters.next() } else { Some(character) };
        text.extend(meant);
    }
    text
}

fn quoted_where_needed(local: String) -> String {
    let is_atext = |character: char| {
        character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character) || !character.is_ascii()
    };
    if local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext)) {
        return local;
    }
    let mut quoted = String::with_capacity(local.len() + 8);
    quoted.push('"');
    for character in local.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use zrelay_wire::Utf8;

    fn made(sender: &str, recipient: &str) -> String {
        let sender = Address::parse(sender.as_bytes(), Utf8::Allowed).unwrap();
        let recipient = ForwardPath::parse(recipient.as_bytes(), Utf8::Allowed).unwrap();
        verp_sender(&sender, &recipient, Verp { separator: b'+', equals: b'=' })
    }

    #[test]
    fn the_sender_names_the_recipient() {
        assert_eq!(made("list@lists.example", "user@example.net"), "list+user=example.net@lists.example");
        assert_eq!(made("list@lists.example", "postmaster"), "list+postmaster@lists.example");
        assert_eq!(made("list@lists.example", "us+er@example.net"), "list+us+er=example.net@lists.example");
    }

    #[test]
    fn a_local_part_that_needs_quotes_gets_them_around_the_whole() {
        let sender = made("list@lists.example", "\"a b\\\"c\"@example.net");
        assert_eq!(sender, "\"list+a b\\\"c=example.net\"@lists.example");
        assert!(Address::parse(sender.as_bytes(), Utf8::Refused).is_ok());
        assert_eq!(made("\"list\"@lists.example", "u@example.net"), "list+u=example.net@lists.example");
        let literal = made("list@lists.example", "u@[192.0.2.1]");
        assert_eq!(literal, "\"list+u=[192.0.2.1]\"@lists.example");
    }
}
