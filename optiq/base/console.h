// The one writer to stderr: whole lines, and below them one line that may change.
#pragma once
#include <string_view>

namespace optiq {

/// True if stderr is a terminal that can rewrite a line.
bool stderr_is_terminal();

/// Columns of the terminal; 80 where it does not say.
int terminal_columns();

/// Writes `line` and a newline, above the status line if one is shown.
///
/// Threads   any; lines are never mixed.
void write_stderr_line(std::string_view line);

/// Replaces the status line at the bottom of a terminal; empty text removes it. Does
/// nothing where stderr is not a terminal.
///
/// Threads   any.
void show_status(std::string_view text);

}  // namespace optiq
