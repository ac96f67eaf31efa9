package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// mirror keeps what Observe would read up to date by watches, in the compact form that planning needs: no object of
// client-go's types is kept. It is always a little behind the cluster; a plan made on it is still safe, because each
// write carries the resourceVersion it was planned on.
//
// It knows our own writes (wrote), so what is left are the changes of others: those are drift.
type mirror struct {
	feeds  []feed
	log    *slog.Logger
	notify func() // somebody else changed something

	waited bool // until everything was read once (awaitReady); of the goroutine that calls Observe

	// mu guards all that follows, but for ready: replace closes it under mu, others wait for it without.
	mu         sync.Mutex
	synced     int // how many feeds were read at least once
	ready      chan struct{}
	namespaces map[string]map[rbacsync.Key]*rbacsync.Live
	foreign    map[rbacsync.Key]bool
	// unmarked are the namespaces among foreign that have other labels or annotations of ours.
	unmarked map[rbacsync.Key]*rbacsync.Live
	members  []map[rbacsync.Key]bool // of each feed
	touched  map[rbacsync.Key]string // changed by somebody else, with the version ("" for deleted)
}

// relistAfter is how long a feed lives from watches alone; then it is listed again, in case an event was lost.
const relistAfter = time.Hour

// relistUnwatched is how often a feed is listed that may be listed but not watched.
const relistUnwatched = time.Minute

func newMirror(of []feed, log *slog.Logger, notify func()) *mirror {
	m := &mirror{
		feeds: of, log: log, notify: notify, ready: make(chan struct{}),
		namespaces: map[string]map[rbacsync.Key]*rbacsync.Live{}, foreign: map[rbacsync.Key]bool{}, unmarked: map[rbacsync.Key]*rbacsync.Live{}, touched: map[rbacsync.Key]string{},
	}
	m.members = make([]map[rbacsync.Key]bool, len(m.feeds))
	return m
}

// run follows the cluster until ctx is done and returns when everything it started has ended.
func (m *mirror) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range m.feeds {
		wg.Go(func() { m.follow(ctx, i) })
	}
}

// fill reads all feeds once, without following them.
func (m *mirror) fill(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, f := range m.feeds {
		g.Go(func() error {
			entries, version, err := f.read(ctx)
			if err != nil && !f.optional {
				return err
			}
			m.replace(i, entries, version)
			return nil
		})
	}
	return g.Wait()
}

// follow lists one feed and then watches it; it lists again when the watch can't be resumed.
func (m *mirror) follow(ctx context.Context, i int) {
	f := m.feeds[i]
	pause, warned := time.Duration(0), false
	for ctx.Err() == nil {
		entries, version, err := f.read(ctx)
		if err != nil {
			if ctx.Err() == nil {
				m.log.WarnContext(ctx, "the cluster can't be read, trying again", "error", withHint(err))
			}
			pause = min(max(2*pause, 500*time.Millisecond), 30*time.Second)
			wait.For(ctx, wait.Jitter(pause))
			continue
		}
		pause = 0
		m.replace(i, entries, version)
		until := time.Now().Add(wait.Jitter(relistAfter))
		for ctx.Err() == nil && version != "" && time.Now().Before(until) {
			version, err = m.stream(ctx, i, version)
			if apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) {
				if !warned {
					m.log.WarnContext(ctx, "a watch is refused, listing once a minute instead: apply the roles in deploy/ again", "error", err)
				}
				warned = true
				wait.For(ctx, wait.Jitter(relistUnwatched))
				break
			}
			if err != nil && ctx.Err() == nil {
				m.log.DebugContext(ctx, "a watch ended, resuming", "what", f.what, "error", err)
				wait.For(ctx, wait.Jitter(200*time.Millisecond))
			}
		}
	}
}

// withHint adds what helps to an error when a role lacks something.
func withHint(err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%w: apply the roles in deploy/manifests again, and for templates the one in deploy/optional/templates.yaml", err)
	}
	return err
}

// stream watches one feed from a version on, and returns the version to go on from; "" when it has to be listed.
func (m *mirror) stream(ctx context.Context, i int, version string) (string, error) {
	o := m.feeds[i].options
	seconds := int64(300 + rand.IntN(300)) //nolint:gosec // not a secret
	o.ResourceVersion, o.AllowWatchBookmarks, o.TimeoutSeconds = version, true, &seconds
	w, err := m.feeds[i].watch(ctx, o)
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return "", err
		}
		return version, fmt.Errorf("watching %s: %w", m.feeds[i].what, err)
	}
	defer w.Stop()
	for {
		var e watch.Event
		var ok bool
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case e, ok = <-w.ResultChan():
		}
		if !ok {
			return version, nil
		}
		switch e.Type {
		case watch.Added, watch.Modified, watch.Deleted:
			x, err := m.feeds[i].entryOf(e.Object)
			if err != nil {
				return "", err
			}
			version = x.ResourceVersion
			m.event(i, x, e.Type == watch.Deleted)
		case watch.Bookmark:
			a, err := meta.Accessor(e.Object)
			if err != nil {
				return "", err
			}
			version = a.GetResourceVersion()
		case watch.Error:
			return "", fmt.Errorf("watching %s: %w", m.feeds[i].what, apierrors.FromObject(e.Object))
		}
	}
}

// newer reports whether version a is later than b. Versions that can't be compared are in the order they came.
func newer(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || c > 0
}

// replace takes in a whole list of a feed. Of what was read before, that which is newer than the list stays.
func (m *mirror) replace(i int, entries []entry, version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := m.members[i] == nil
	seen := make(map[rbacsync.Key]bool, len(entries))
	for _, e := range entries {
		seen[e.Key] = true
		m.put(e, !first)
	}
	for k := range m.members[i] {
		if l := m.namespaces[k.Namespace][k]; !seen[k] && (l == nil || newer(version, l.ResourceVersion)) {
			delete(m.foreign, k)
			delete(m.unmarked, k)
			m.drop(k, "")
		}
	}
	m.members[i] = seen
	if first {
		if m.synced++; m.synced == len(m.feeds) {
			close(m.ready)
			if m.notify != nil {
				m.notify() // of what was touched before
			}
		}
	}
}

// event takes in one event of a feed.
func (m *mirror) event(i int, e entry, deleted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !deleted {
		m.members[i][e.Key] = true
		m.put(e, true)
		return
	}
	delete(m.members[i], e.Key)
	l := m.namespaces[e.Key.Namespace][e.Key]
	if m.feeds[i].options.LabelSelector == notOurs {
		if m.foreign[e.Key] { // what stood in our way is gone
			delete(m.foreign, e.Key)
			m.touch(e.Key, "")
		}
		return
	}
	if l != nil && newer(l.ResourceVersion, e.ResourceVersion) { // an old event: it was made anew since
		return
	}
	if e.Key.Kind == rbacsync.KindNamespace {
		delete(m.foreign, e.Key)
		delete(m.unmarked, e.Key)
	}
	m.drop(e.Key, "")
}

// put stores an entry unless something newer is known. The caller holds mu.
func (m *mirror) put(e entry, watching bool) {
	k := e.Key
	old := m.namespaces[k.Namespace][k]
	known := old != nil && !newer(e.ResourceVersion, old.ResourceVersion)
	if delete(m.unmarked, k); e.unmarked() && !known {
		m.unmarked[k] = e.Live
	}
	switch {
	case !e.ours:
		if old != nil && k.Kind == rbacsync.KindNamespace { // the mark was taken off
			m.drop(k, e.ResourceVersion)
		}
		m.foreign[k] = true
		return
	case known:
		return
	}
	if old != nil && old.FromTemplate != nil && e.FromTemplate != nil && reflect.DeepEqual(old.FromTemplate.Content, e.FromTemplate.Content) {
		e.FromTemplate, watching = old.FromTemplate, false // only its status changed, as a quota's does all the time
	}
	delete(m.foreign, k)
	if m.namespaces[k.Namespace] == nil {
		m.namespaces[k.Namespace] = map[rbacsync.Key]*rbacsync.Live{}
	}
	m.namespaces[k.Namespace][k] = e.Live
	if watching {
		m.touch(k, e.ResourceVersion)
	}
}

// drop forgets an object. The caller holds mu.
func (m *mirror) drop(k rbacsync.Key, version string) {
	m.remove(k)
	m.touch(k, version)
}

func (m *mirror) remove(k rbacsync.Key) {
	namespace := m.namespaces[k.Namespace]
	delete(namespace, k)
	if len(namespace) == 0 {
		delete(m.namespaces, k.Namespace)
	}
}

func (m *mirror) touch(k rbacsync.Key, version string) {
	m.touched[k] = version
	if m.notify != nil {
		m.notify()
	}
}

// wrote takes in what the API server answered to a write of ours, nil to a deletion, so that the next plan is not made on
// what was there before, and our own write does not look like drift. What the watch says of it then is nothing new.
func (m *mirror) wrote(k rbacsync.Key, l *rbacsync.Live) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l == nil {
		m.remove(k)
		delete(m.touched, k)
		return
	}
	if old := m.namespaces[k.Namespace][k]; old != nil && old.ResourceVersion == l.ResourceVersion {
		m.namespaces[k.Namespace][k] = l // the watch was faster; what we know of our own write is more
	}
	m.put(entry{l, true}, false)
	if v, ok := m.touched[k]; ok && (v == "" || !newer(v, l.ResourceVersion)) {
		delete(m.touched, k)
	}
}

// recall takes over from a mirror of before, which may be nil, what is the same still: what was compared once need not be
// compared again. Nobody else may use m yet: it is called without mu.
func (m *mirror) recall(before *mirror) {
	if before == nil {
		return
	}
	for _, old := range before.observed(nil).Live {
		if l := m.namespaces[old.Key.Namespace][old.Key]; l != nil && l.UID == old.UID && l.ResourceVersion == old.ResourceVersion {
			m.namespaces[old.Key.Namespace][old.Key] = old
		}
	}
}

// forgetIn forgets what is in some namespaces.
func (m *mirror) forgetIn(namespace func(string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.namespaces, func(ns string, _ map[rbacsync.Key]*rbacsync.Live) bool { return namespace(ns) })
}

// isReady reports whether everything was read once; of nil it is false.
func (m *mirror) isReady() bool {
	if m == nil {
		return false
	}
	select {
	case <-m.ready:
		return true
	default:
		return false
	}
}

// awaitReady reports isReady. The first call waits for that, at most that long.
func (m *mirror) awaitReady(ctx context.Context, patience time.Duration) bool {
	if m != nil && !m.waited {
		m.waited = true
		select {
		case <-m.ready:
		case <-ctx.Done():
		case <-time.After(patience):
		}
	}
	return m.isReady()
}

// drifted returns the namespaces that hold something which somebody else changed, and forgets them.
func (m *mirror) drifted() rbacsync.Scope {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.touched) == 0 {
		return nil
	}
	out := make(rbacsync.Scope, len(m.touched))
	for k := range m.touched {
		out[k.Namespace] = true
	}
	clear(m.touched)
	return out
}

// observed returns what the cluster holds, sorted; in these namespaces, or everywhere when namespaces is nil. Foreign
// always holds everything.
func (m *mirror) observed(namespaces rbacsync.Scope) *rbacsync.Observed {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &rbacsync.Observed{Foreign: maps.Clone(m.foreign)}
	if namespaces == nil {
		for _, namespace := range m.namespaces {
			for _, l := range namespace {
				out.Live = append(out.Live, l)
			}
		}
	}
	for ns := range namespaces {
		for _, l := range m.namespaces[ns] {
			out.Live = append(out.Live, l)
		}
	}
	for k, l := range m.unmarked {
		if namespaces == nil || namespaces[k.Namespace] {
			out.Unmarked = append(out.Unmarked, l)
		}
	}
	sortLive(out.Live)
	return out
}
