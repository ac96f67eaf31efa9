package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// neededCA knows which certificates of a large bundle verify GitLab. GitLab alone can show that. It is asked about each content of
// the bundle, by one request at a time, again when an answer is as old as fresh, and after a failure not before retry is over. While it
// gives no other answer the last good one counts.
//
// Whoever asks waits for patience at most. Nobody else waits longer than a glance, and nobody at all once there is an answer or a
// failure: what waits holds one of the slots of everybody.
type neededCA struct {
	ask                            func(ctx context.Context, url string, bundle []byte) ([]byte, error) // ci.Needed
	patience, retry, glance, fresh time.Duration
	turn                           chan struct{} // holds something while somebody asks

	mu    sync.Mutex // not held during I/O
	known *neededAnswer
}

// neededAnswer is what came of the questions about a bundle. It does not change.
type neededAnswer struct {
	bundle [sha256.Size]byte // what was asked about
	ca     []byte            // of the last good answer; nil: there was none
	err    error             // of the last question
	at     time.Time         // of the last question
}

// give returns the certificates, or why there are none.
func (a *neededAnswer) give() ([]byte, error) {
	if a.ca != nil {
		return a.ca, nil
	}
	return nil, a.err
}

func newNeededCA(ask func(ctx context.Context, url string, bundle []byte) ([]byte, error)) *neededCA {
	return &neededCA{
		ask: ask, patience: 5 * time.Second, retry: 10 * time.Second, glance: time.Second, fresh: time.Hour, turn: make(chan struct{}, 1),
	}
}

// errAsked says that somebody else asks already.
var errAsked = errors.New("GitLab has not shown its certificate yet, and is asked for it already: try again in a few seconds")

// of returns the certificates of a bundle that verify the server at a URL.
func (n *neededCA) of(ctx context.Context, url string, bundle []byte) ([]byte, error) {
	sum := sha256.Sum256(bundle)
	last, counts := n.answer(sum)
	if counts {
		return last.give()
	}
	select {
	case n.turn <- struct{}{}:
	default:
		if last != nil { // until the other one has an answer
			return last.give()
		}
		if err := n.wait(ctx); err != nil {
			return nil, err
		}
	}
	defer func() { <-n.turn }()
	if last, counts = n.answer(sum); counts { // to who had the turn before
		return last.give()
	}
	// It does not end with who asks: else those who leave would keep a failure from being known.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.patience)
	defer cancel()
	next := &neededAnswer{bundle: sum}
	next.ca, next.err = n.ask(asking, url, bundle)
	next.at = time.Now()
	if next.err != nil {
		next.ca = nil
		if last != nil {
			next.ca = last.ca
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = next
	return next.give()
}

// wait takes the turn when it is free within a glance.
func (n *neededCA) wait(ctx context.Context) error {
	err := wait.Turn(ctx, n.turn, n.glance)
	switch {
	case errors.Is(err, wait.ErrTaken):
		return errAsked
	case err != nil:
		return fmt.Errorf("waiting for GitLab to show its certificate: %w", err)
	}
	return nil
}

// answer returns the last answer about a bundle, nil if there is none, and whether it counts: else it is time to ask again.
func (n *neededCA) answer(bundle [sha256.Size]byte) (last *neededAnswer, counts bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil || n.known.bundle != bundle {
		return nil, false
	}
	last = n.known
	if last.err != nil {
		return last, time.Since(last.at) < n.retry
	}
	return last, time.Since(last.at) < n.fresh
}
