package app

import (
	"io"
	"log/slog"
)

// NewLogger writes JSON lines for machines.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
