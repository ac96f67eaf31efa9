package authz

import (
	"fmt"
	"time"
)

// Date is a calendar day in UTC, the granularity of GitLab's expires_at. The zero Date means "never".
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// ParseDate reads "2026-01-31" and, since GitLab's GraphQL types the column as Time, also an RFC 3339 time.
// The empty string is the zero Date.
func ParseDate(s string) (Date, error) {
	if s == "" {
		return Date{}, nil
	}
	layout := time.DateOnly
	if len(s) > len(time.DateOnly) {
		layout = time.RFC3339
	}
	t, err := time.Parse(layout, s)
	if err != nil {
		return Date{}, fmt.Errorf("reading expiry date %q: want YYYY-MM-DD or RFC 3339", s)
	}
	y, m, d := t.UTC().Date()
	return Date{y, m, d}, nil
}

// IsZero reports whether d is the zero Date, "never".
func (d Date) IsZero() bool { return d == Date{} }

// Start returns the first moment of the day.
func (d Date) Start() time.Time { return time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC) }

// Over reports whether a right that expires on d is over at now: access ends at the START of that day (UTC).
func (d Date) Over(now time.Time) bool { return !d.IsZero() && !now.Before(d.Start()) }

// String returns "2026-01-31", or "" for the zero Date.
func (d Date) String() string {
	if d.IsZero() {
		return ""
	}
	return d.Start().Format(time.DateOnly)
}

// NextExpiry returns the first moment after now at which a membership or link ends, or the zero time.
func NextExpiry(s *Snapshot, now time.Time) time.Time {
	next := expiry{after: now}
	for _, g := range s.Groups {
		next.consider(g.Members, g.Links)
	}
	for _, p := range s.Projects {
		next.consider(p.Members, p.Links)
	}
	return next.at
}

// NextExpiryAfter is NextExpiry where it was before, and only these sources have changed since. It looks at them alone, so it is
// too early where what would have ended then is gone; it is never too late.
func NextExpiryAfter(before time.Time, s *Snapshot, changed map[SourceID]bool, now time.Time) time.Time {
	next := expiry{after: now, at: before}
	for id := range changed {
		switch id.Kind {
		case GroupSource:
			next.consider(s.Groups[id.ID].Members, s.Groups[id.ID].Links)
		case ProjectSource:
			next.consider(s.Projects[id.ID].Members, s.Projects[id.ID].Links)
		case UserSource:
		}
	}
	return next.at
}

// expiry finds the first end after a moment.
type expiry struct{ after, at time.Time }

func (e *expiry) consider(rows []Member, links []Link) {
	for i := range rows {
		e.date(rows[i].Expires)
	}
	for i := range links {
		e.date(links[i].Expires)
	}
}

func (e *expiry) date(d Date) {
	if d.IsZero() || d.Over(e.after) {
		return
	}
	if t := d.Start(); e.at.IsZero() || t.Before(e.at) {
		e.at = t
	}
}
