package main

import (
	"errors"
	"io"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logqueue"
)

// lastLines is how long the end of the program waits for a reader to take the last lines of the log.
const lastLines = 3 * time.Second

// logging calls f with a log that never holds up who writes to it, whatever becomes of the reader of w. All that this
// process logs goes there, also what libraries log by themselves.
func logging(w io.Writer, format func(io.Writer) slog.Handler, f func(*slog.Logger, *logqueue.Queue) error) error {
	// With standard output or error closed at the other end, Go lets SIGPIPE end the process (os/signal, "SIGPIPE"). Commands
	// for people want that, as in `plan | head`; a server must not end with the reader of its log.
	signal.Ignore(syscall.SIGPIPE)
	lines := logqueue.New(w, format)
	log := slog.New(lines.Handler())
	klog.SetSlogLogger(log) // client-go's
	slog.SetDefault(log)    // package log of the standard library follows it, which net/http uses here and there
	err := f(log, lines)
	if unread := lines.Close(lastLines); unread != nil && err != nil {
		return errors.Join(err, unread)
	}
	return err
}
