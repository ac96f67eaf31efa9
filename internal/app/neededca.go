package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

// neededCA knows which certificates of a large bundle verify GitLab. GitLab alone can show that. It is asked once for each content of
// the bundle, by one request at a time, and after a failure not again before retry is over.
//
// Whoever asks waits for patience at most. Nobody else waits longer than a glance, and nobody at all once a question has failed: what
// waits holds one of the slots of everybody.
type neededCA struct {
	ask                     func(ctx context.Context, url string, bundle []byte) ([]byte, error) // ci.Needed
	patience, retry, glance time.Duration
	turn                    chan struct{} // holds something while somebody asks

	mu    sync.Mutex // not held during I/O
	known *neededAnswer
}

// neededAnswer is what came of a question: the certificates, or why there are none.
type neededAnswer struct {
	bundle [sha256.Size]byte // what was asked about
	ca     []byte
	err    error
	at     time.Time
}

func newNeededCA(ask func(ctx context.Context, url string, bundle []byte) ([]byte, error)) *neededCA {
	return &neededCA{ask: ask, patience: 5 * time.Second, retry: 10 * time.Second, glance: time.Second, turn: make(chan struct{}, 1)}
}

// errAsked says that somebody else asks already.
var errAsked = errors.New("GitLab has not shown its certificate yet, and is asked for it already: try again in a few seconds")

// of returns the certificates of a bundle that verify the server at a URL.
func (n *neededCA) of(ctx context.Context, url string, bundle []byte) ([]byte, error) {
	sum := sha256.Sum256(bundle)
	last, counts := n.answer(sum)
	if counts {
		return last.ca, last.err
	}
	select {
	case n.turn <- struct{}{}:
	default:
		if last != nil { // until the other one has an answer
			return nil, last.err
		}
		if err := n.wait(ctx); err != nil {
			return nil, err
		}
	}
	defer func() { <-n.turn }()
	if last, counts = n.answer(sum); counts { // to who had the turn before
		return last.ca, last.err
	}
	asking, cancel := context.WithTimeout(ctx, n.patience)
	defer cancel()
	ca, err := n.ask(asking, url, bundle)
	if err != nil && ctx.Err() != nil { // who asked has left, which says nothing of GitLab
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = &neededAnswer{sum, ca, err, time.Now()}
	return ca, err
}

// wait takes the turn when it is free within a glance.
func (n *neededCA) wait(ctx context.Context) error {
	glance := time.NewTimer(n.glance)
	defer glance.Stop()
	select {
	case n.turn <- struct{}{}:
		return nil
	case <-glance.C:
		return errAsked
	case <-ctx.Done():
		return fmt.Errorf("waiting for GitLab to show its certificate: %w", ctx.Err())
	}
}

// answer returns the last answer about a bundle, nil if there is none, and whether it counts: else it is time to ask again.
func (n *neededCA) answer(bundle [sha256.Size]byte) (last *neededAnswer, counts bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil || n.known.bundle != bundle {
		return nil, false
	}
	return n.known, n.known.err == nil || time.Since(n.known.at) < n.retry
}
