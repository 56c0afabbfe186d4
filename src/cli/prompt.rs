//! A prompt: lines of commands, from a person with history or from a pipe, alone or inside a running node.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, Result, ensure};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use thiserror::Error;

use super::{Answer, print};

/// What follows a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Next,
    End,
}

/// The user interrupted a command; the text says what follows from that.
#[derive(Debug, Error)]
#[error("interrupted{0}")]
pub(super) struct Interrupted(pub(super) &'static str);

/// The commands of a prompt.
pub(super) trait Commands {
    /// The text before each line.
    fn sign(&self) -> String;

    /// The command that Ctrl-C stands for; in a raw terminal it is a key. `None`: the line is dropped.
    fn on_interrupt(&self) -> Option<&'static str>;

    /// Runs the command of a line; an empty line does nothing.
    fn obey(&self, line: &str) -> Result<Then>;
}

/// Both stdin and stdout are a terminal.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Runs the commands of a person or of a pipe.
pub(super) fn run(commands: &impl Commands) -> Result<Answer> {
    if is_interactive() {
        converse(commands)?;
    } else {
        work_off(commands, std::io::stdin().lock())?;
    }
    Ok(Answer::Yes)
}

/// With a person: a line editor with history, and errors end nothing.
fn converse(commands: &impl Commands) -> Result<()> {
    let mut editor = DefaultEditor::new()?;
    let sign = commands.sign();
    loop {
        let line = match editor.readline(&sign) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => match commands.on_interrupt() {
                Some(command) => command.into(),
                None => continue,
            },
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if !line.trim().is_empty() {
            editor.add_history_entry(line.trim())?;
        }
        match commands.obey(&line) {
            Ok(Then::Next) => {}
            Ok(Then::End) => return Ok(()),
            Err(e) => eprintln!("{}", print::error(&e)),
        }
    }
}

/// With a pipe: every line is run; a failure of one is a failure of all, and an interrupt ends it.
fn work_off(commands: &impl Commands, lines: impl BufRead) -> Result<()> {
    let mut failed = 0_u64;
    for line in lines.lines() {
        match commands.obey(&line.context("stdin")?) {
            Ok(Then::Next) => {}
            Ok(Then::End) => break,
            Err(e) if print::is_broken_pipe(&e) || e.is::<Interrupted>() => return Err(e),
            Err(e) => {
                failed += 1;
                eprintln!("peerloop: {}", print::error(&e));
            }
        }
    }
    ensure!(failed == 0, "{failed} of the commands on stdin failed");
    Ok(())
}

/// The prompt of a running node, on a thread of its own. When this value is dropped, the terminal is as it was before,
/// also when the thread is in the middle of a line.
pub(super) struct NodePrompt {
    before: Termios,
}

impl NodePrompt {
    pub(super) fn start(commands: impl Commands + Send + 'static) -> Result<NodePrompt> {
        let before = tcgetattr(std::io::stdin()).context("the terminal")?;
        // Not joined: the thread blocks on a key press, and ends with the process.
        std::thread::Builder::new()
            .name("prompt".into())
            .spawn(move || {
                if let Err(e) = converse(&commands) {
                    log::error!("the prompt ended: {e:#}");
                }
            })?;
        Ok(NodePrompt { before })
    }
}

impl Drop for NodePrompt {
    fn drop(&mut self) {
        // Fails when the terminal is gone; there is nothing to restore then.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The first word, and the rest without the space between them.
pub(super) fn split_word(line: &str) -> (&str, &str) {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (word, rest.trim_start())
}
