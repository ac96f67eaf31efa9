package expiry

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"
)

const (
	lookEvery  = time.Minute // whether a token was replaced
	askEvery   = time.Hour   // an administrator can give a token another end, or take it back
	retryEvery = 5 * time.Minute
)

// Token is a token whose end GitLab tells.
type Token struct {
	What string
	// Read returns the token as it is now.
	Read func() (string, error)
	// Ask returns when it ends; the zero time: never, or GitLab does not tell.
	Ask func(context.Context) (time.Time, error)
}

// Tokens asks GitLab when tokens end. Its methods may be called at the same time.
type Tokens struct {
	log    *slog.Logger
	tokens []*asked
}

type asked struct {
	Token
	last [sha256.Size]byte // of the token that was asked about
	next time.Time

	mu  sync.Mutex
	end time.Time
}

// NewTokens returns Tokens that know nothing yet; Run makes them ask.
func NewTokens(log *slog.Logger, tokens ...Token) *Tokens {
	t := &Tokens{log: log}
	for _, one := range tokens {
		t.tokens = append(t.tokens, &asked{Token: one})
	}
	return t
}

// Run asks until ctx is done: each hour, and within a minute after a token was replaced.
func (t *Tokens) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		for _, one := range t.tokens {
			one.look(ctx, t.log)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look asks if it is time to. What was known stays while GitLab does not answer, but is not said of another token.
func (a *asked) look(ctx context.Context, log *slog.Logger) {
	token, err := a.Read()
	if err != nil {
		return // whoever uses the token says so
	}
	sum, now := sha256.Sum256([]byte(token)), time.Now()
	if sum != a.last {
		a.set(time.Time{})
	} else if now.Before(a.next) {
		return
	}
	a.last, a.next = sum, now.Add(retryEvery)
	end, err := a.Ask(ctx)
	if err != nil {
		if ctx.Err() == nil {
			log.LogAttrs(ctx, slog.LevelInfo, "it is not known when a token ends", slog.String("token", a.What), slog.Any("error", err))
		}
		return
	}
	a.next = now.Add(askEvery)
	a.set(end)
}

func (a *asked) set(end time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.end = end
}

// Ends returns the tokens of which it is known that they end, and when.
func (t *Tokens) Ends() []End {
	var out []End
	for _, one := range t.tokens {
		one.mu.Lock()
		if !one.end.IsZero() {
			out = append(out, End{one.What, one.end})
		}
		one.mu.Unlock()
	}
	return out
}
