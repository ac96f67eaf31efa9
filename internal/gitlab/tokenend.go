package gitlab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// TokenEnd returns when the token that reads GitLab ends; see api.tokenEnd.
func (r *Reader) TokenEnd(ctx context.Context) (time.Time, error) { return r.api.tokenEnd(ctx) }

// TokenEnd returns when the token that writes variables ends; see api.tokenEnd.
func (w *Variables) TokenEnd(ctx context.Context) (time.Time, error) { return w.api.tokenEnd(ctx) }

// tokenEnd returns when our token ends: at the begin of its last date, UTC (source: "Personal access tokens", which also covers
// those of projects and groups). The zero time, without an error, stands for a token without an end, and for a GitLab that does not
// tell: before 15.5, or where the token may not ask about itself.
func (a *api) tokenEnd(ctx context.Context) (time.Time, error) {
	var self struct {
		ExpiresAt string `json:"expires_at"` // null: never
	}
	_, err := a.get(briefly(ctx, sourceTimeout), "personal_access_tokens/self", nil, &self)
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrForbidden):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, err
	case self.ExpiresAt == "":
		return time.Time{}, nil
	}
	end, err := time.Parse(time.DateOnly, self.ExpiresAt)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading personal_access_tokens/self: expires_at is %q, want a date", shorten(self.ExpiresAt))
	}
	return end, nil
}
