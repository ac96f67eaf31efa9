package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

func historyLimits(cfg *config.Config) audit.Limits {
	return audit.Limits{Days: cfg.History.Days, MaxBytes: int64(cfg.History.MaxBytes), PseudonymiseAfter: cfg.History.PseudonymiseAfter.Duration}
}

// HistoryView says what of the history is shown, and how. The zero value shows how many changes there are of each namespace.
type HistoryView struct {
	Namespace        string
	User             string // user name, id, or name in Kubernetes
	Since, Until, At string // see ParseTime
	Output           string // "", text or json
}

// Check says which values can't be.
func (v HistoryView) Check(now time.Time) error {
	var errs []error
	if v.Output != "" && v.Output != "text" && v.Output != "json" {
		errs = append(errs, fmt.Errorf("-o: want text or json, not %q", v.Output))
	}
	for flag, text := range map[string]string{"--since": v.Since, "--until": v.Until, "--at": v.At} {
		if _, err := ParseTime(text, now); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", flag, err))
		}
	}
	if v.At != "" && v.Since+v.Until != "" {
		errs = append(errs, errors.New("--at is a moment, --since and --until are a span: give one of the two"))
	}
	if v.Namespace+v.User == "" && v.Since+v.Until+v.At != "" {
		errs = append(errs, errors.New("of whom? Give -n NAMESPACE or --user USER"))
	}
	return errors.Join(errs...)
}

// ParseTime reads a time for people: RFC 3339, a day (its beginning in UTC), or how long ago, as "36h" or "7d". "" is the zero time.
func ParseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("want a time like 2026-11-24T15:04:05Z, a day like 2026-11-24, or how long ago like 36h or 7d, not %q", text)
}

// History prints what is remembered of a namespace, of a person, or of both: changes, or who had what at a moment.
func History(ctx context.Context, cfg *config.Config, v HistoryView, out io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	return kubeerror.Explain(showHistory(ctx, audit.NewReader(c.kube), v, time.Now(), out))
}

func showHistory(ctx context.Context, r *audit.Reader, v HistoryView, now time.Time, out io.Writer) error {
	if err := v.Check(now); err != nil {
		return err
	}
	var user int64
	if v.User != "" {
		var err error
		if user, err = findUser(ctx, r, v.User); err != nil {
			return err
		}
	}
	switch {
	case v.Namespace == "" && user == 0:
		return countHistory(ctx, r, v, out)
	case v.At != "":
		return momentOfHistory(ctx, r, v, user, now, out)
	}
	since, _ := ParseTime(v.Since, now) // Check has looked
	until, _ := ParseTime(v.Until, now)
	entries, err := []audit.Entry(nil), error(nil)
	if user != 0 {
		entries, err = r.User(ctx, user, since, until)
		entries = slices.DeleteFunc(entries, func(e audit.Entry) bool { return v.Namespace != "" && e.Namespace != v.Namespace })
	} else {
		entries, err = r.Namespace(ctx, v.Namespace, since, until)
	}
	if err != nil {
		return err
	}
	if done, err := forPrograms(out, v.Output, append([]audit.Entry{}, entries...)); done {
		return err
	}
	for _, e := range entries {
		fmt.Fprintln(out, entryText(e, v.Namespace == ""))
	}
	if len(entries) > 0 {
		return nil
	}
	_, begins, err := r.Count(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "no such change is remembered"+beginning(begins))
	return nil
}

func beginning(begins time.Time) string {
	if begins.IsZero() {
		return " yet: a leader in mode enforce writes down those it makes"
	}
	return "; all are since " + begins.Format(time.RFC3339)
}

// countHistory prints how much is remembered.
func countHistory(ctx context.Context, r *audit.Reader, v HistoryView, out io.Writer) error {
	count, begins, err := r.Count(ctx)
	if err != nil {
		return err
	}
	if done, err := forPrograms(out, v.Output, map[string]any{"begins": begins, "changes": count}); done {
		return err
	}
	if len(count) == 0 {
		fmt.Fprintln(out, "no change is remembered"+beginning(begins))
		return nil
	}
	for _, ns := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(out, "%s: %d\n", ns, count[ns])
	}
	return nil
}

// momentOfHistory prints who had what at a moment.
func momentOfHistory(ctx context.Context, r *audit.Reader, v HistoryView, user int64, now time.Time, out io.Writer) error {
	at, _ := ParseTime(v.At, now) // Check has looked
	if at.After(now) {
		return fmt.Errorf("--at: %s is still to come", at.Format(time.RFC3339))
	}
	var m audit.Moment
	var err error
	if user != 0 {
		m, err = r.UserAt(ctx, user, at)
		m.Rights = slices.DeleteFunc(m.Rights, func(x audit.Right) bool { return v.Namespace != "" && x.Namespace != v.Namespace })
	} else {
		m, err = r.At(ctx, v.Namespace, at)
	}
	if err != nil {
		return err
	}
	if done, err := forPrograms(out, v.Output, m); done {
		return err
	}
	switch {
	case !m.Known && m.Begins.IsZero():
		fmt.Fprintln(out, "who had what is not known"+beginning(m.Begins))
	case !m.Known:
		fmt.Fprintf(out, "who had what is known since %s\n", m.Begins.Format(time.RFC3339))
	case len(m.Rights) == 0:
		fmt.Fprintf(out, "nobody had a right there at %s\n", at.UTC().Format(time.RFC3339))
	}
	for _, x := range m.Rights {
		since := "from before " + m.Begins.Format(time.RFC3339)
		if !x.Since.IsZero() {
			since = fmt.Sprintf("since %s  [%s]", x.Since.Format(time.RFC3339), reasonText(x.Cause, x.Why, x.ApprovedBy))
		}
		fmt.Fprintf(out, "%s  %s  %s  %s\n", x.Namespace, whoText(x.Who), x.Role, since)
	}
	return nil
}

// findUser returns the id of the person that is meant: by id, by the name in Kubernetes, or by the user name as last known.
func findUser(ctx context.Context, r *audit.Reader, text string) (int64, error) {
	if id, ok := kubename.ParseUser(text); ok {
		return id, nil
	}
	if id, err := strconv.ParseInt(text, 10, 64); err == nil && id > 0 {
		return id, nil
	}
	id, ok, err := r.Find(ctx, text)
	if err == nil && !ok {
		err = fmt.Errorf("--user: nobody in the history has the name %q: give the id in GitLab; who was removed from GitLab is pseudonymised after a while", text)
	}
	return id, err
}

func whoText(w audit.Who) string {
	text := w.Name
	if w.ID != 0 {
		text = fmt.Sprintf("%s (%s)", kubename.User(w.ID), w.Name)
	}
	if !w.Gone.IsZero() {
		text += ", gone from GitLab"
	}
	return text
}

func reasonText(cause, why, approvedBy string) string {
	if why != "" {
		cause += "; " + why
	}
	if approvedBy != "" {
		cause += "; approved by " + approvedBy
	}
	return cause
}

// entryText is one line of the history.
func entryText(e audit.Entry, namespace bool) string {
	text := e.At.Format(time.RFC3339) + "  "
	if namespace {
		text += e.Namespace + "  "
	}
	switch e.What {
	case audit.Gained:
		text += "+ " + whoText(e.Who) + "  " + e.Role
	case audit.Lost:
		text += "- " + whoText(e.Who) + "  " + e.Role
	case audit.Created, audit.Changed, audit.Deleted:
		text += string(e.What) + " " + e.Object
	}
	if e.Found {
		text += "  (found)"
	}
	return text + "  [" + reasonText(e.Cause, e.Why, e.ApprovedBy) + "]"
}
