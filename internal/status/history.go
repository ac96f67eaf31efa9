package status

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Limits of what is kept. The log has everything.
const (
	historyPerNamespace = 20
	historyInAll        = 20000
	historyNames        = 20 // subjects named in one entry
	historyEvery        = 5 * time.Second
)

// change is one entry of the history.
type change struct {
	At        time.Time `json:"at"`
	Namespace string    `json:"ns"`
	Object    string    `json:"object"`
	Action    string    `json:"action"`
	Added     []string  `json:"added,omitempty"`
	Removed   []string  `json:"removed,omitempty"`
	Why       string    `json:"why,omitempty"`
	Cause     string    `json:"cause"`
}

func (c change) compare(o change) int {
	return cmp.Or(c.At.Compare(o.At), strings.Compare(c.Namespace, o.Namespace), strings.Compare(c.Object, o.Object), strings.Compare(c.Action, o.Action))
}

func (c change) String() string {
	var parts []string
	for _, n := range c.Removed {
		parts = append(parts, "- "+n)
	}
	for _, n := range c.Added {
		parts = append(parts, "+ "+n)
	}
	text := fmt.Sprintf("%s  %s %s", c.At.UTC().Format(time.RFC3339), c.Action, c.Object)
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text + fmt.Sprintf("  [%s; %s]", c.Cause, c.Why)
}

// History keeps the last changes of each namespace and stores them beside the rounds, a few seconds later.
type History struct {
	blob store.Blob
	log  *slog.Logger
	wake chan struct{}

	mu  sync.Mutex
	new []change // not stored yet
}

// NewHistory returns a History that is kept in the cluster.
func NewHistory(kube kubernetes.Interface, log *slog.Logger) *History {
	return &History{blob: historyBlob(kube), log: log, wake: make(chan struct{}, 1)}
}

func historyBlob(kube kubernetes.Interface) store.Blob {
	return store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
}

// ShowHistory prints the last changes of one namespace, or how many there are of each.
func ShowHistory(ctx context.Context, kube kubernetes.Interface, namespace string, out io.Writer) error {
	all, err := loadHistory(ctx, historyBlob(kube))
	if err != nil {
		return err
	}
	printHistory(out, all, namespace)
	return nil
}

// Add takes in what a round has changed.
func (h *History) Add(r syncer.Round) {
	if r.Report.Applied == 0 {
		return
	}
	at := r.Started.UTC().Truncate(time.Millisecond)
	var out []change
	for _, c := range r.Report.Made(r.Plan) {
		added, removed := c.Subjects()
		out = append(out, change{
			At: at, Namespace: c.Key.Namespace, Object: c.Key.String(), Action: c.Action.String(),
			Added: shorten(added), Removed: shorten(removed), Why: c.Why, Cause: r.Cause,
		})
	}
	h.mu.Lock()
	h.new = append(h.new, out...)
	if len(h.new) > historyInAll {
		h.new = slices.Clone(h.new[len(h.new)-historyInAll:])
	}
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func shorten(names []string) []string {
	if len(names) <= historyNames {
		return names
	}
	return append(slices.Clone(names[:historyNames]), fmt.Sprintf("and %d more", len(names)-historyNames))
}

// Run stores what Add took in until ctx is done. What is left then is for Flush, when no round goes on any more.
func (h *History) Run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-h.wake:
			h.save(ctx)
			t := time.NewTimer(historyEvery)
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			t.Stop()
		}
	}
}

// Flush stores what is left, also when ctx is done.
func (h *History) Flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	h.save(ctx)
}

// save adds what is new to what is stored, which may be another process's.
func (h *History) save(ctx context.Context) {
	h.mu.Lock()
	fresh := h.new
	h.new = nil
	h.mu.Unlock()
	if len(fresh) == 0 {
		return
	}
	all, err := loadHistory(ctx, h.blob)
	if err == nil {
		all = trim(append(all, fresh...))
		err = h.blob.Save(ctx, nil, func(w io.Writer) error {
			e := json.NewEncoder(w)
			for _, c := range all {
				if err := e.Encode(c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err == nil {
		return
	}
	if ctx.Err() == nil {
		h.log.WarnContext(ctx, "the history of changes was not stored, trying again", "error", err)
	}
	h.mu.Lock()
	h.new = append(fresh, h.new...)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// trim returns the last changes of each namespace, in order.
func trim(all []change) []change {
	slices.SortStableFunc(all, change.compare)
	per := map[string]int{}
	var out []change
	for _, c := range slices.Backward(all) {
		if per[c.Namespace]++; per[c.Namespace] <= historyPerNamespace && len(out) < historyInAll {
			out = append(out, c)
		}
	}
	slices.Reverse(out)
	return out
}

func loadHistory(ctx context.Context, b store.Blob) ([]change, error) {
	var all []change
	_, _, err := b.Load(ctx, "", func(r io.Reader) error {
		d := json.NewDecoder(bufio.NewReader(r))
		for {
			var c change
			switch err := d.Decode(&c); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			all = append(all, c)
		}
	})
	if errors.Is(err, store.ErrNone) || errors.Is(err, store.ErrDamaged) { // a new one is begun
		return nil, nil
	}
	return all, err
}

func printHistory(out io.Writer, all []change, namespace string) {
	if len(all) == 0 {
		fmt.Fprintln(out, "no change is remembered yet: a leader in mode enforce writes down those it makes")
		return
	}
	if namespace == "" {
		count := map[string]int{}
		for _, x := range all {
			count[x.Namespace]++
		}
		for _, ns := range slices.Sorted(maps.Keys(count)) {
			fmt.Fprintf(out, "%s: %d\n", ns, count[ns])
		}
		return
	}
	n := 0
	for _, x := range all {
		if x.Namespace == namespace {
			n++
			fmt.Fprintln(out, x)
		}
	}
	if n == 0 {
		fmt.Fprintf(out, "no change of namespace %s is remembered\n", namespace)
	}
}
