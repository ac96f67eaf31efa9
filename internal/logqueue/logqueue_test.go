package logqueue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func asJSON(w io.Writer) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})
}

// file is what the lines go to.
type file struct {
	gate chan struct{} // not nil: each write waits until it is closed or one is sent

	mu      sync.Mutex
	b       bytes.Buffer
	partial func(p []byte) (n int, err error) // not nil: how much of a write is done
}

func (f *file) Write(p []byte) (int, error) {
	if f.gate != nil {
		<-f.gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.partial != nil {
		if n, err := f.partial(p); err != nil {
			f.b.Write(p[:n])
			return n, err
		}
	}
	return f.b.Write(p)
}

func (f *file) String() string { f.mu.Lock(); defer f.mu.Unlock(); return f.b.String() }

// record is one line of the log.
type record struct {
	Msg    string `json:"msg"`
	Sender int    `json:"sender"`
	N      int    `json:"n"`
	Lines  int    `json:"lines"`
}

// read returns the lines of a log. Only one that was cut off by a failed write may be no JSON; torn says whether those are allowed.
func read(t *testing.T, text string, torn bool) (out []record) {
	t.Helper()
	for line := range strings.Lines(text) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			if torn {
				continue
			}
			t.Fatalf("not a whole line: %q: %v", line, err)
		}
		out = append(out, r)
	}
	return out
}

// TestNobodyWaitsForTheReader: logging goes on, memory is bounded, and what is missing is counted and said in its place.
func TestNobodyWaitsForTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &file{gate: make(chan struct{})}
		q := logqueue.New(f, asJSON)
		log := slog.New(q.Handler())
		const sent = 50_000 // several times what there is room for
		for n := range sent {
			log.Info("line", "n", n)
		}
		d := q.Drops()
		if d.Info == 0 || d.Info >= sent || d.Warning != 0 {
			t.Fatalf("%+v of %d were dropped while nobody read", d, sent)
		}
		log.Warn("there is room for warnings", "n", sent)
		if w := q.Drops().Warning; w != 0 {
			t.Errorf("%d warnings were dropped: lines of level info fill their room", w)
		}
		if err := q.Close(time.Second); !errors.Is(err, logqueue.ErrUnread) {
			t.Errorf("closed with %v while nobody read", err)
		}
		close(f.gate)
		synctest.Wait()
		lines := read(t, f.String(), false)
		if len(lines) != sent-int(d.Info)+2 {
			t.Errorf("%d lines were written, want all that were not dropped, a warning and one about the others", len(lines))
		}
		if size := len(f.String()); size > 1<<20 {
			t.Errorf("%d bytes waited", size)
		}
		if note := lines[len(lines)-2]; note.Msg != "log lines were dropped" || note.Lines != int(d.Info) {
			t.Errorf("before the warning stands %+v, want that %d lines were dropped", note, d.Info)
		}
		log.Info("after the end")
		if q.Drops().Info != d.Info+1 {
			t.Error("a line after Close is not counted")
		}
	})
}

// TestGoesOnByItself: when the reader goes on, the log says what is missing without another line being logged.
func TestGoesOnByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &file{gate: make(chan struct{})}
		q := logqueue.New(f, asJSON)
		log := slog.New(q.Handler())
		for n := range 50_000 {
			log.Error("line", "n", n)
		}
		close(f.gate)
		synctest.Wait()
		lines := read(t, f.String(), false)
		if note := lines[len(lines)-1]; note.Lines == 0 || note.Lines != int(q.Drops().Warning) {
			t.Errorf("the last line is %+v, want one about %+v", note, q.Drops())
		}
		if err := q.Close(time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestLinesAreWholeInOrderAndCounted, whoever sends how many at what speed, and however the file fails.
func TestLinesAreWholeInOrderAndCounted(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 11))
		fails := seed%2 == 1
		f := &file{gate: make(chan struct{})}
		if fails {
			f.partial = func(p []byte) (int, error) {
				if r.IntN(4) == 0 {
					return r.IntN(len(p)), errors.New("no space left on device")
				}
				return len(p), nil
			}
		}
		q := logqueue.New(f, asJSON)
		log := slog.New(q.Handler())
		senders, each, pad := 1+int(seed/2%3), 800, strings.Repeat("x", 500+r.IntN(2000))
		reading := r.IntN(600)
		go func() {
			for range reading {
				f.gate <- struct{}{}
			}
			time.Sleep(20 * time.Millisecond)
			close(f.gate)
		}()
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() {
				for n := range each {
					log.Log(context.Background(), []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}[n%4], "line", "sender", s, "n", n, "pad", pad)
				}
			})
		}
		wg.Wait()
		if err := q.Close(time.Minute); err != nil {
			t.Fatal(err)
		}
		last, written, noted := map[int]int{}, 0, 0
		for _, l := range read(t, f.String(), fails) {
			if l.Msg != "line" {
				noted += l.Lines
				continue
			}
			if n, ok := last[l.Sender]; ok && l.N <= n {
				t.Fatalf("seed %d: line %d of sender %d comes after line %d", seed, l.N, l.Sender, n)
			}
			// With one sender it is known what is missing here: it was said before this line, unless that failed.
			if senders == 1 && !fails && l.N != written+noted {
				t.Fatalf("seed %d: %d lines are written and %d said to be missing before line %d", seed, written, noted, l.N)
			}
			last[l.Sender] = l.N
			written++
		}
		d := q.Drops()
		if sent := senders * each; written+int(d.Info+d.Warning) != sent {
			t.Errorf("seed %d: %d written and %+v dropped of %d", seed, written, d, sent)
		}
		if !fails && noted != int(d.Info+d.Warning) {
			t.Errorf("seed %d: the log says that %d are missing, it were %+v", seed, noted, d)
		}
	}
}

// TestHandler: the queue changes no line.
func TestHandler(t *testing.T) {
	var want, got bytes.Buffer
	plain := func(w io.Writer) slog.Handler {
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
	}
	q := logqueue.New(&got, plain)
	for _, h := range []slog.Handler{plain(&want), q.Handler()} {
		log := slog.New(h).With("a", 1).WithGroup("g").With("b", 2)
		log.Debug("not shown")
		log.Info("info", "c", 3)
		log.Error("error", "c", "two\nlines")
	}
	if err := q.Close(time.Minute); err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() || strings.Count(want.String(), "\n") != 2 {
		t.Errorf("%s, want\n%s", got.String(), want.String())
	}
}
