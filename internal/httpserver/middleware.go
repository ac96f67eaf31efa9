package httpserver

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"
)

// RequestIDHeader carries the id that joins the log lines of one request. It is made here; one from outside is
// thrown away, so that nobody can write into our logs with it.
const RequestIDHeader = "X-Request-Id"

func withRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		growStack()
		// Not a secret: it only has to differ from others. crypto/rand would be one more system call per request.
		b := strconv.AppendUint(make([]byte, 0, 17), 1<<63|rand.Uint64()>>1, 16) //nolint:gosec // see above
		id := string(b)
		r.Header.Set(RequestIDHeader, id)
		w.Header().Set(RequestIDHeader, id)
		next.ServeHTTP(w, r)
	})
}

// withFarewell asks clients to go elsewhere while the listener drains. For HTTP/2, net/http makes a GOAWAY of it, after which
// the streams that were accepted are still answered.
func withFarewell(draining func() bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if draining() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// growStack makes room for all that a handler calls. net/http starts each request of an HTTP/2 connection on a new
// goroutine with a small stack, which would else be copied again and again, deeper each time: a tenth of a token
// review's processor time.
//
//go:noinline
func growStack() {
	var room [12 << 10]byte
	runtime.KeepAlive(&room)
}

// withRecovery answers 500 for a handler that panics. What was panicked with is logged only if the Go runtime
// made it: any other value may hold a secret. An answer that did not begin begins here, with its limit for what is unread.
func withRecovery(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		both := &exchange{ResponseWriter: w}
		if r.ProtoMajor == 1 && r.ContentLength != 0 {
			both.body = r.Body
			r = withBody(r, both)
		}
		defer func() {
			what := recover()
			if what == nil {
				both.start()
				return
			}
			if err, ok := what.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				both.limitUnread()
				panic(http.ErrAbortHandler)
			}
			text := fmt.Sprintf("%T", what)
			if bug, ok := what.(runtime.Error); ok {
				text = bug.Error()
			}
			log.LogAttrs(r.Context(), slog.LevelError, "handler panicked",
				slog.String("requestId", r.Header.Get(RequestIDHeader)), slog.String("panic", text), slog.String("stack", string(debug.Stack())))
			if both.started {
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			http.Error(both, "internal error", http.StatusInternalServerError)
		}()
		next.ServeHTTP(both, r)
	})
}

// withBody returns a request with another body. The one of net/http keeps its own, which it looks at when it answers: whether the client
// waits to be asked for it (Expect: 100-continue), and whether it is too long to be read to its end.
func withBody(r *http.Request, body io.ReadCloser) *http.Request {
	other := *r
	other.Body = body
	return &other
}

// unreadTime is what is left of a body's time when its answer begins.
const unreadTime = time.Second

// exchange is a request and its answer. net/http reads what a handler left of a body of HTTP/1 before it writes the answer, for as
// long as ReadTimeout: without a time limit of its own, whoever is answered without their body being read (refused by a Limit,
// not found, a GET) could hold their connection, and a slot where the answer is long, by sending half of it.
type exchange struct {
	http.ResponseWriter
	body    io.ReadCloser
	started bool        // the answer has begun
	read    atomic.Bool // to its end, or to an error: Bodies have set their own time limit then
}

// limitUnread gives what nobody will read a second to come.
func (e *exchange) limitUnread() {
	if e.body != nil && !e.read.Load() {
		// An error means a writer without deadlines (a test's).
		_ = http.NewResponseController(e.ResponseWriter).SetReadDeadline(time.Now().Add(unreadTime))
	}
}

func (e *exchange) start() {
	if !e.started {
		e.started = true
		e.limitUnread()
	}
}

// Read implements io.Reader.
func (e *exchange) Read(p []byte) (int, error) {
	n, err := e.body.Read(p)
	if err != nil {
		e.read.Store(true)
	}
	return n, err
}

// Close implements io.Closer.
func (e *exchange) Close() error {
	err := e.body.Close()
	if err == nil {
		e.read.Store(true)
	}
	return err
}

func (e *exchange) WriteHeader(status int) {
	e.start()
	e.ResponseWriter.WriteHeader(status)
}

func (e *exchange) Write(b []byte) (int, error) {
	e.start()
	return e.ResponseWriter.Write(b)
}

// FlushError serves http.ResponseController.
func (e *exchange) FlushError() error {
	e.start()
	return http.NewResponseController(e.ResponseWriter).Flush()
}

// Unwrap serves http.ResponseController.
func (e *exchange) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// Limit lets at most n requests at a time through to next and answers all others 503 at once. It sets no
// Retry-After: kube-apiserver would repeat the request five times and make the overload worse. overflow, if not
// nil, is called for each refused request (metrics).
func Limit(n int, overflow func(), next http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			if overflow != nil {
				overflow()
			}
			http.Error(w, "too many requests at a time", http.StatusServiceUnavailable)
		}
	})
}
