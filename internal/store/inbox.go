package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// MaxInbox is how many sources the inbox names one by one. What is more becomes one entry that asks for a full round.
const MaxInbox = 1000

// keyAll is the entry that asks for a full round.
const keyAll = "all"

// Inbox is what hooks named and no round has dealt with yet, in a ConfigMap: one key per source, so that a burst of
// hooks about one thing is one entry. Any replica puts, the leader follows and removes. A value is different each time
// it is put: what comes in while a round reads the same thing stays.
//
// Entries of this format can be added to an inbox of a later one too, so that no hook is refused (every version reads the
// entries of those before it); what is in such a one is not read and not removed.
type Inbox struct {
	Client    kubernetes.Interface
	Watch     kubernetes.Interface // without a timeout
	Namespace string
	Logger    *slog.Logger
	Now       func() time.Time

	mu      sync.Mutex
	next    *batch                     // gathers while another one is written
	offer   func([]intake.Ticket) bool // of Follow; nil: this process does not follow
	session session                    // of Follow
	puts    uint64                     // of all sessions
	stored  map[string]uint64          // the numbers of the values of this session that were written into the ConfigMap last
	pen     sync.Mutex                 // held by who writes

	unstored map[string]string // what the last write failed to store; of who holds the pen
}

// batch is what is written with one request.
type batch struct {
	data    map[string]string
	written bool
	err     error
	dealt   chan struct{} // closed when all of it is dealt with and nothing is left to be written
}

// Put stores what is to be read again (none: everything) and returns when it is stored. Calls at the same time share
// their writes. It ends within 9 s, for GitLab waits 10 s for an answer. What could not be stored is an error, and goes along with
// the next write: GitLab does not send it again. Where this process follows, it begins with it at once, and what it has dealt with
// within headStart is not stored at all: a process that ends before that is followed by one that reads everything.
func (b *Inbox) Put(ctx context.Context, changed []authz.SourceID, cause string) error {
	keys := make([]string, 0, len(changed))
	for _, id := range changed {
		keys = append(keys, id.Label())
	}
	if len(keys) == 0 || len(keys) > MaxInbox {
		keys = []string{keyAll}
	}
	mine, begun := b.gather(keys, cause)
	if begun && mine.dealtWithin(ctx, headStart) {
		return nil
	}
	b.pen.Lock()
	defer b.pen.Unlock()
	if !mine.written { // else somebody wrote it with their own
		b.mu.Lock()
		b.next = nil
		b.mu.Unlock()
		for k, v := range b.unstored {
			if _, ok := mine.data[k]; !ok {
				mine.data[k] = v
			}
		}
		if len(mine.data) > MaxInbox {
			mine.data = map[string]string{keyAll: b.value(anyMark(), cause)}
		}
		mine.written = true
		mine.err = b.write(context.WithoutCancel(ctx), mine.data)
		if b.unstored = nil; mine.err != nil {
			b.unstored = mine.data
		} else {
			b.noteStored(mine.data)
		}
	}
	return mine.err
}

// value is what an entry says: when it came, a mark that makes it another one than all others, and the cause.
func (b *Inbox) value(mark, cause string) string {
	return b.Now().UTC().Format(time.RFC3339Nano) + " " + mark + " " + cause
}

func anyMark() string {
	nonce := make([]byte, 8)
	_, _ = rand.Read(nonce) // never fails
	return hex.EncodeToString(nonce)
}

// session is one run of Follow. It marks the values that offer took in it with a number that grows.
type session string

func (s session) mark(n uint64) string { return fmt.Sprintf("%s.%x", s, n) }

// number returns the number of a value that offer took in this session.
func (s session) number(value string) (n uint64, ok bool) {
	f := strings.SplitN(value, " ", 3)
	if s == "" || len(f) < 3 {
		return 0, false
	}
	hex, ok := strings.CutPrefix(f[1], string(s)+".")
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, ok && err == nil
}

// covers reports whether whoever has dealt with the value done has dealt with another one of the same key.
func (s session) covers(done, value string) bool {
	d, ours := s.number(done)
	v, too := s.number(value)
	return done == value || ours && too && v <= d
}

// noteStored notes what of the session is in the ConfigMap.
func (b *Inbox) noteStored(data map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, v := range data {
		if n, ours := b.session.number(v); ours {
			b.stored[k] = n
		}
	}
}

// headStart is how long an entry that this process deals with itself waits to be stored. A revocation takes a fifth of that, and
// half of it while kube-apiserver is slow; it needs no second write beside its own.
const headStart = 100 * time.Millisecond

// dealtWithin waits for that time at most, and reports whether all of the batch was dealt with.
func (m *batch) dealtWithin(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-m.dealt:
		return true
	case <-ctx.Done():
	case <-t.C:
	}
	return false
}

// gather adds to what is written next, and lets this process begin with it if it follows.
func (b *Inbox) gather(keys []string, cause string) (mine *batch, begun bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	value := b.value(anyMark(), cause)
	if b.offer != nil {
		b.puts++
		ours := b.value(b.session.mark(b.puts), cause)
		tickets := make([]intake.Ticket, 0, len(keys))
		for _, k := range keys {
			t := ticket(k, ours)
			t.Offered = true
			tickets = append(tickets, t)
		}
		if begun = b.offer(tickets); begun {
			value = ours
		}
	}
	if b.next == nil {
		b.next = &batch{data: map[string]string{}, dealt: make(chan struct{})}
	}
	for _, k := range keys {
		b.next.data[k] = value
	}
	switch {
	case slices.Contains(keys, keyAll):
		b.next.data = map[string]string{keyAll: value}
	case len(b.next.data) > MaxInbox:
		b.next.data = map[string]string{keyAll: b.value(anyMark(), cause)}
	}
	return b.next, begun
}

// writeTimeout bounds a write with its repetitions. A call waits for the one under way and for its own.
const writeTimeout = 4 * time.Second

// write adds keys by a merge patch, which can't conflict, and tries again while there is time: kube-apiserver may just be
// starting again.
func (b *Inbox) write(ctx context.Context, data map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		return err
	}
	for pause := 100 * time.Millisecond; ; pause *= 2 {
		cm, err := b.patch(ctx, patch)
		if err == nil {
			if len(cm.Data) > MaxInbox {
				b.overflow(ctx, cm)
			}
			return nil
		}
		if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || ctx.Err() != nil { // it stays so
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

// patch writes once, and makes the inbox where it is missing.
func (b *Inbox) patch(ctx context.Context, patch []byte) (*corev1.ConfigMap, error) {
	cm, err := b.maps().Patch(ctx, NameInbox, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		if err := b.create(ctx); err != nil {
			return nil, err
		}
		cm, err = b.maps().Patch(ctx, NameInbox, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if apierrors.IsInvalid(err) { // somebody made it immutable; what was in it the leader has, or reads with everything
		if err := b.empty(ctx); err != nil {
			return nil, err
		}
		cm, err = b.maps().Patch(ctx, NameInbox, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("writing the inbox of hooks: %w", err)
	}
	return cm, nil
}

// overflow replaces all entries by one that asks for a full round. If somebody else writes at the same time, the next
// write does it.
func (b *Inbox) overflow(ctx context.Context, cm *corev1.ConfigMap) {
	if Readable(cm) != nil {
		return // who leads will shorten it
	}
	cm.Data = map[string]string{keyAll: b.Now().UTC().Format(time.RFC3339Nano) + " overflow inbox overflow"}
	if _, err := b.maps().Update(ctx, cm, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		b.Logger.WarnContext(ctx, "the full inbox of hooks was not shortened", "error", err)
	}
}

// empty makes the inbox anew.
func (b *Inbox) empty(ctx context.Context) error {
	if cm, err := b.maps().Get(ctx, NameInbox, metav1.GetOptions{}); err == nil {
		if err := Readable(cm); err != nil {
			return err
		}
	}
	if err := b.maps().Delete(ctx, NameInbox, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("making the inbox of hooks anew: %w", err)
	}
	return b.create(ctx)
}

func (b *Inbox) create(ctx context.Context) error {
	_, err := b.maps().Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: NameInbox, Namespace: b.Namespace, Labels: OwnLabels()},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making the inbox of hooks: %w", err)
	}
	return nil
}

// Follow hands every entry to take, those that are there first, until ctx is done. An entry is handed over once for
// each value it has. What Put gets in this process meanwhile goes to offer, which must not block, before it is stored; what offer
// does not take comes to take as all else.
func (b *Inbox) Follow(ctx context.Context, take func([]intake.Ticket), offer func([]intake.Ticket) bool) {
	b.mu.Lock()
	b.offer, b.session, b.stored = offer, session(anyMark()), map[string]uint64{}
	ours := b.session
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.offer = nil
		b.mu.Unlock()
	}()
	seen := map[string]string{}
	news := func(cm *corev1.ConfigMap) {
		var out []intake.Ticket
		for k, v := range cm.Data {
			if _, taken := ours.number(v); !taken && !has(seen, k, v) {
				out = append(out, ticket(k, v))
			}
		}
		if seen = maps.Clone(cm.Data); seen == nil {
			seen = map[string]string{}
		}
		if len(out) > 0 {
			take(out)
		}
	}
	for pause := time.Duration(0); ctx.Err() == nil; {
		err := b.follow(ctx, news)
		if ctx.Err() != nil {
			return
		}
		if pause = min(max(2*pause, 100*time.Millisecond), 5*time.Second); err == nil {
			pause = 0
			continue
		}
		b.Logger.WarnContext(ctx, "the inbox of hooks can't be read, trying again", "error", err)
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func has(m map[string]string, key, value string) bool {
	v, ok := m[key]
	return ok && v == value
}

// follow reads the inbox and watches it until the watch ends.
func (b *Inbox) follow(ctx context.Context, news func(*corev1.ConfigMap)) error {
	cm, err := b.maps().Get(ctx, NameInbox, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if err := b.create(ctx); err != nil {
			return err
		}
		cm, err = b.maps().Get(ctx, NameInbox, metav1.GetOptions{})
	}
	if err == nil {
		err = Readable(cm)
	}
	if err != nil {
		return err
	}
	news(cm)
	// The right to watch one name is given by a field selector of that name. Without a version the watch begins with the
	// object as it is. It MUST NOT start from the object's own version: kube-apiserver keeps no events from before its own
	// start, and refuses every version older than that for as long as nobody writes the object.
	w, err := b.Watch.CoreV1().ConfigMaps(b.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + NameInbox})
	if err != nil {
		return err
	}
	last := cm.ResourceVersion
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			switch cm, _ := e.Object.(*corev1.ConfigMap); {
			case e.Type == watch.Error:
				return apierrors.FromObject(e.Object)
			case e.Type == watch.Deleted: // by hand: what is lost with it comes with the next full round
				return nil
			case cm != nil && Readable(cm) != nil:
				return Readable(cm)
			case cm != nil && !older(cm.ResourceVersion, last): // a watch may begin a little in the past
				last = cm.ResourceVersion
				news(cm)
			}
		}
	}
}

// older reports whether version a is before b. Versions that can't be compared are in the order they came.
func older(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && c < 0
}

// Remove takes entries out that a round has dealt with, unless they were put again since.
func (b *Inbox) Remove(ctx context.Context, done []intake.Ticket) error {
	done, ours := b.withdraw(done)
	for range 5 {
		if len(done) == 0 {
			return nil
		}
		cm, err := b.maps().Get(ctx, NameInbox, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = Readable(cm)
		}
		if err != nil {
			return fmt.Errorf("reading the inbox of hooks: %w", err)
		}
		ops := removals(cm.Data, done, ours)
		if len(ops) == 0 {
			b.noteRemoved(done)
			return nil
		}
		if value(cm.Immutable) {
			return b.empty(ctx)
		}
		patch, err := json.Marshal(ops)
		if err != nil {
			return err
		}
		_, err = b.maps().Patch(ctx, NameInbox, types.JSONPatchType, patch, metav1.PatchOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			b.noteRemoved(done)
			return nil
		}
		if !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) { // else one was put again: look at what is left
			return fmt.Errorf("clearing the inbox of hooks: %w", err)
		}
	}
	return errors.New("clearing the inbox of hooks: it changes too fast")
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value string `json:"value"` // of "remove" it says nothing
}

// removals takes out of data what is done, and returns how.
func removals(data map[string]string, done []intake.Ticket, ours session) (ops []operation) {
	for _, t := range done {
		if v, ok := data[t.Key]; ok && ours.covers(t.Value, v) { // keys are letters, digits and "-": nothing to escape in a JSON pointer
			delete(data, t.Key) // it may be among done twice
			ops = append(ops, operation{"test", "/data/" + t.Key, v}, operation{"remove", "/data/" + t.Key, ""})
		}
	}
	return ops
}

// noteRemoved notes what of the session is not in the ConfigMap any more. What was stored while it was removed is newer.
func (b *Inbox) noteRemoved(done []intake.Ticket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range done {
		if n, ours := b.session.number(t.Value); ours && b.stored[t.Key] <= n {
			delete(b.stored, t.Key)
		}
	}
}

// withdraw drops what is not stored yet, and returns the rest when no write is under way that might store it.
func (b *Inbox) withdraw(done []intake.Ticket) (rest []intake.Ticket, ours session) {
	b.pen.Lock()
	defer b.pen.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range done {
		dropped := false
		for _, waiting := range []map[string]string{b.unstored, b.next.waiting()} {
			if v, ok := waiting[t.Key]; ok && b.session.covers(t.Value, v) {
				delete(waiting, t.Key)
				dropped = true
			}
		}
		if _, before := b.stored[t.Key]; before || !dropped { // an older one was stored
			rest = append(rest, t)
		}
	}
	if b.next != nil && len(b.next.data) == 0 {
		b.next.written = true
		close(b.next.dealt)
		b.next = nil
	}
	return rest, b.session
}

// waiting returns what a batch gathers; nil for none.
func (m *batch) waiting() map[string]string {
	if m == nil {
		return nil
	}
	return m.data
}

// ticket reads one entry. One that can't be read asks for a full round.
func ticket(key, value string) intake.Ticket {
	t := intake.Ticket{Key: key, Value: value, Cause: "inbox"}
	if f := strings.SplitN(value, " ", 3); len(f) == 3 {
		t.Cause = f[2]
		if at, err := time.Parse(time.RFC3339Nano, f[0]); err == nil {
			t.At = at
		}
	}
	if id, ok := authz.ParseLabel(key); ok {
		t.Changed = []authz.SourceID{id}
	}
	return t
}

func (b *Inbox) maps() configMapClient { return b.Client.CoreV1().ConfigMaps(b.Namespace) }
