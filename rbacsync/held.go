package rbacsync

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Names of what HeldStore keeps in the integrator's own namespace.
const (
	HeldConfigMap      = "gl-k8s-integrator-plan"
	ApprovalsConfigMap = "gl-k8s-integrator-approvals"
)

// HashOf names a set of held things by what they are, not by when or why: "sha256" of their keys, shortened.
func HashOf(items []Item) string {
	keys := make([]string, 0, len(items))
	for _, i := range items {
		keys = append(keys, i.Key())
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	sum := sha256.Sum256([]byte(strings.Join(keys, "\n")))
	return hex.EncodeToString(sum[:8])
}

// Section is a part of what is held that can be approved by itself.
type Section struct {
	Hash  string
	Scope authz.SourceID
	Items []Item
}

// inConfiguration is what a change of the policy is called.
const inConfiguration = "the configuration"

// place names the part for people.
func (s Section) place() string {
	if s.Scope == (authz.SourceID{}) {
		return inConfiguration
	}
	return s.Scope.String()
}

// Sections divides what is held by top-level group (of namespaces: by person); what a change of the policy takes is one part.
func Sections(held []Item) []Section {
	var out []Section
	for len(held) > 0 {
		n := slices.IndexFunc(held, func(i Item) bool { return i.Scope != held[0].Scope })
		if n < 0 {
			n = len(held)
		}
		out = append(out, Section{HashOf(held[:n]), held[0].Scope, held[:n]})
		held = held[n:]
	}
	return out
}

// maxShown is how many lines HeldText shows of one section.
const maxShown = 50

// HeldText shows what is held, with what to type to approve it.
func HeldText(held []Item) string {
	if len(held) == 0 {
		return "nothing is held\n"
	}
	var b strings.Builder
	sections := Sections(held)
	for _, s := range sections {
		fmt.Fprintf(&b, "%s  %s: %s\n", s.Hash, s.place(), s.Items[0].Why)
		for n, i := range s.Items {
			if n == maxShown {
				fmt.Fprintf(&b, "    and %d more\n", len(s.Items)-n)
				break
			}
			who := ""
			switch {
			case i.Role == "":
			case i.User == 0:
				who = ": CI of the namespace"
			default:
				who = fmt.Sprintf(": %s (user/%d) loses %s", cmp.Or(printable(i.Name), "?"), i.User, i.Role)
			}
			verb := map[bool]string{true: "new namespace for", false: "in"}[i.Role == ""]
			cause := i.Cause.String()
			if i.Change != "" {
				cause = inConfiguration
			}
			fmt.Fprintf(&b, "    %s %s %s%s, because of %s\n", verb, i.Source, printable(i.Path), who, cause)
		}
	}
	fmt.Fprintf(&b, "held: %d. Approve a part by its hash, or all by %s:  gl-k8s-integrator approve --config FILE HASH\n", len(held), HashOf(held))
	return b.String()
}

// ErrNoSuchHash says that nothing that is held has the hash, for instance because it changed meanwhile.
var ErrNoSuchHash = errors.New("nothing that is held now has this hash: look again with plan --held")

// HeldStore keeps what is held, and what was approved, in ConfigMaps of the integrator's own namespace. Who may write
// there may approve.
type HeldStore struct {
	Kube      kubernetes.Interface
	Namespace string
}

// Load returns what the leader holds.
func (h HeldStore) Load(ctx context.Context) ([]Item, error) {
	var items []Item
	err := h.load(ctx, HeldConfigMap, &items)
	return items, err
}

// maxOfChange is how much of what one change of the policy takes is kept: a ConfigMap has no room for all rights of a
// large GitLab, and all of it has one key.
const maxOfChange = 5000

// Save keeps what is held for Load.
func (h HeldStore) Save(ctx context.Context, items []Item) error {
	ofChange := 0
	items = slices.DeleteFunc(slices.Clone(items), func(i Item) bool {
		if i.Change != "" {
			ofChange++
		}
		return i.Change != "" && ofChange > maxOfChange
	})
	return h.save(ctx, HeldConfigMap, func([]byte) (any, error) { return items, nil })
}

// Approvals returns what was approved, by Item.Key.
func (h HeldStore) Approvals(ctx context.Context) (map[string]bool, error) {
	var keys []string
	if err := h.load(ctx, ApprovalsConfigMap, &keys); err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(keys))
	for _, k := range keys {
		out[k] = true
	}
	return out, nil
}

// Approve approves what is held under the hash of HashOf: all of it, or a Section. It returns what that is.
func (h HeldStore) Approve(ctx context.Context, hash string) ([]Item, error) {
	held, err := h.Load(ctx)
	if err != nil {
		return nil, err
	}
	var items []Item
	if len(held) > 0 && hash == HashOf(held) {
		items = held
	}
	for _, s := range Sections(held) {
		if s.Hash == hash {
			items = s.Items
		}
	}
	if len(items) == 0 {
		return nil, ErrNoSuchHash
	}
	return items, h.change(ctx, func(keys map[string]bool) {
		for _, i := range items {
			keys[i.Key()] = true
		}
	})
}

// Forget drops approvals that are of no use any more.
func (h HeldStore) Forget(ctx context.Context, keys []string) error {
	return h.change(ctx, func(all map[string]bool) {
		for _, k := range keys {
			delete(all, k)
		}
	})
}

func (h HeldStore) change(ctx context.Context, edit func(map[string]bool)) error {
	return h.save(ctx, ApprovalsConfigMap, func(old []byte) (any, error) {
		var keys []string
		if len(old) > 0 {
			if err := unpack(old, &keys); err != nil {
				return nil, fmt.Errorf("it can't be read, delete it and approve again: %w", err)
			}
		}
		all := map[string]bool{}
		for _, k := range keys {
			all[k] = true
		}
		edit(all)
		return sortedKeys(all), nil
	})
}

const (
	heldField = "items.json.gz"
	// maxHeld bounds what is read back; a ConfigMap holds 1 MiB, and this much when it is unpacked.
	maxHeld = 256 << 20
)

func (h HeldStore) load(ctx context.Context, name string, into any) error {
	cm, err := h.Kube.CoreV1().ConfigMaps(h.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading ConfigMap %s/%s: %w", h.Namespace, name, err)
	}
	if len(cm.BinaryData[heldField]) == 0 {
		return nil
	}
	if err := unpack(cm.BinaryData[heldField], into); err != nil {
		return fmt.Errorf("ConfigMap %s/%s can't be read, delete it and approve again: %w", h.Namespace, name, err)
	}
	return nil
}

// save writes what edit makes of the present content, again when somebody else was faster.
func (h HeldStore) save(ctx context.Context, name string, edit func(old []byte) (any, error)) error {
	var err error
	for range 5 {
		if err = h.saveOnce(ctx, name, edit); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("writing ConfigMap %s/%s: %w", h.Namespace, name, err)
	}
	return nil
}

func (h HeldStore) saveOnce(ctx context.Context, name string, edit func(old []byte) (any, error)) error {
	api := h.Kube.CoreV1().ConfigMaps(h.Namespace)
	cm, err := api.Get(ctx, name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	if missing {
		cm = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: h.Namespace}}
	}
	fixed := cm.Immutable != nil && *cm.Immutable // by somebody else
	value, err := edit(cm.BinaryData[heldField])
	if err != nil {
		return err
	}
	packed, err := pack(value)
	if err != nil {
		return err
	}
	var data map[string]string
	if items, ok := value.([]Item); ok {
		if missing && len(items) == 0 {
			return nil
		}
		text := HeldText(items)
		data = map[string]string{"plan": text[:min(len(text), 64<<10)]} // for kubectl
	}
	if bytes.Equal(packed, cm.BinaryData[heldField]) && maps.Equal(data, cm.Data) {
		return nil
	}
	if fixed {
		if err := api.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &cm.ResourceVersion}}); err != nil {
			return err
		}
		cm, missing = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: h.Namespace}}, true
	}
	cm.BinaryData, cm.Data = map[string][]byte{heldField: packed}, data
	if missing {
		_, err = api.Create(ctx, cm, metav1.CreateOptions{})
	} else {
		_, err = api.Update(ctx, cm, metav1.UpdateOptions{})
	}
	return err
}

func pack(v any) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(v); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if b.Len() > 900<<10 {
		return nil, errors.New("more is held than fits into a ConfigMap: something is wrong with what GitLab answers, see the findings")
	}
	return b.Bytes(), nil
}

func unpack(data []byte, into any) error {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return json.NewDecoder(io.LimitReader(z, maxHeld)).Decode(into)
}

// Verifier is what a Reader may also be able to do: ask GitLab about single things. Both fail when GitLab might
// only be hiding the thing from us.
type Verifier interface {
	// Exists reports whether GitLab has the source; false is its 404.
	Exists(ctx context.Context, id authz.SourceID) (bool, error)
	// MemberLevel returns the level a person has in a source, 0 for GitLab's 404.
	MemberLevel(ctx context.Context, id authz.SourceID, user int64) (authz.Level, error)
}

const (
	maxQuestions    = 60 // GitLab allows 200 requests a minute for members/all
	questionTimeout = 5 * time.Second
	// moreQuestions is the pause before the next round when GitLab could not be asked about everything in one.
	moreQuestions = 30 * time.Second
)

// brakes is what a Syncer remembers for its Limits. What is of before, policy and past is in the Memory too.
type brakes struct {
	recalled bool // the Memory was asked
	before   *authz.Snapshot
	policy   *authz.Policy // the last one that the whole cluster agreed with
	past     []Past
	approved map[string]bool // nil: not read yet
	saved    string          // hash of what HeldStore has; "?" is unknown
	gone     map[authz.SourceID]bool
	levels   map[Membership]authz.Level
	asked    map[any]int // question: how often it was asked
}

// brake plans a round, holds back what is over a limit, and returns what may be made so. It fills in the Round's
// Plan, Held and Findings.
func (s *Syncer) brake(ctx context.Context, r *Round, have *Observed, want *Wanted) *Wanted {
	var findings []authz.Finding
	r.unplanned = len(r.Findings)
	want = s.withhold(r, have, s.checkTemplates(have, want))
	if s.o.Roles != nil {
		r.Findings = append(r.Findings, roleFindings(s.o.Roles.Roles())...)
		r.Findings = append(r.Findings, ruleFindings(s.o.Roles.Roles(), s.o.Shipped)...)
	}
	first := len(r.Findings)
	r.Plan, findings = Plan(have, want)
	r.Findings, r.Held = append(r.Findings, findings...), nil
	planned := len(r.Findings)
	if s.o.Limits == nil || want.Hold != "" {
		return want
	}
	b := &s.brakes
	s.agreed()
	b.past = slices.DeleteFunc(b.past, func(p Past) bool { return r.Started.Sub(p.At) > creationMemory })
	e := Evidence{Snapshot: r.Snapshot, Before: b.before, Policy: s.o.Policy, Was: b.policy, Gone: b.gone, Levels: b.levels, Past: b.past, Approved: b.approved}
	v := s.o.Limits.Split(r.Plan, want, e, r.Started)
	if s.o.Held != nil && (len(v.Wanted) > 0 || b.approved == nil || len(b.approved) > 0) {
		if approved, err := s.o.Held.Approvals(ctx); err != nil {
			r.Findings = append(r.Findings, authz.Finding{Code: "approvals_unreadable", Text: err.Error()})
		} else {
			b.approved, e.Approved = approved, approved
			v = s.o.Limits.Split(r.Plan, want, e, r.Started)
			s.forget(ctx, r, want, v.Wanted)
		}
	}
	r.Held = v.Held
	if len(v.Held) > 0 {
		r.Plan, findings = Plan(have, v.Want)
		r.Findings = slices.Concat(r.Findings[:first], findings, r.Findings[planned:]) // what is wrong with approvals stays
	}
	for i := range r.Plan { // the log and the history say that it was somebody's decision
		if c := &r.Plan[i]; v.Approved[approvalOf(*c)] {
			c.Why += ", approved by an administrator"
		}
	}
	for _, sec := range Sections(v.Held) {
		r.Findings = append(r.Findings, authz.Finding{
			Code: "held", Source: sec.Scope,
			Text: fmt.Sprintf("%d changes of %s are held: %s; see plan --held, approve with %s", len(sec.Items), sec.place(), sec.Items[0].Why, sec.Hash),
		})
	}
	b.pass(v.Passed)
	if s.o.Mode == ModeEnforce {
		s.saveHeld(ctx, r)
	}
	return v.Want
}

// agreed notes which Snapshot the whole cluster agrees with.
func (s *Syncer) agreed() {
	st, b := s.State(), &s.brakes
	if st == nil || st.View.Snapshot == nil || st.Round.Cause == CauseStored {
		return
	}
	clean := st.Round.Err == nil && !st.Round.unwritten && !st.Round.hold && len(st.Round.Held) == 0 && s.o.Mode == ModeEnforce
	if clean || b.before == nil {
		b.before = st.View.Snapshot
	}
	// What is taken later, because it could not be read or given now, is still to be known as the new policy's doing.
	if clean && !st.Round.part && st.Round.withheld == 0 && (b.policy == nil || len(s.o.Policy.Untouchable(st.View.Snapshot)) == 0) {
		b.policy = &s.o.Policy
	}
}

// recall takes in what a process before this one knew, once.
func (s *Syncer) recall(ctx context.Context, r *Round) {
	b := &s.brakes
	if b.recalled || s.o.Memory == nil {
		return
	}
	st, _, err := s.o.Memory.Load(ctx, "")
	if err != nil {
		r.Findings = append(r.Findings, authz.Finding{Code: "memory_unread", Text: "what was stored of the rounds before can't be read, so more than usual may be held: " + err.Error()})
		return
	}
	b.recalled = true
	if st == nil || st.Snapshot.Issuer != r.Snapshot.Issuer {
		return
	}
	b.before, b.past = st.Before, st.Past
	s.marks.recall(st)
	if st.Policy != nil {
		if p, err := authz.NewPolicy(*st.Policy); err == nil { // else an older version let pass what this one does not
			b.policy = &p
		}
	}
}

// stored is what the Memory is to keep after a round.
func (s *Syncer) stored(r Round) Stored {
	s.round.Lock()
	defer s.round.Unlock()
	s.agreed()
	st := Stored{Snapshot: r.Snapshot, Names: r.Names, Before: s.brakes.before, Past: slices.Clone(s.brakes.past), Marks: s.marks.of(r.Snapshot.Issuer)}
	if now := s.State(); now != nil {
		st.Gaps, st.Jobs = now.View.Gaps(), now.Jobs
	}
	if s.brakes.policy != nil {
		c := s.brakes.policy.Config()
		st.Policy = &c
	}
	return st
}

// withhold is the function of that name, with what this Syncer knows.
func (s *Syncer) withhold(r *Round, have *Observed, want *Wanted) *Wanted {
	if s.o.Roles == nil {
		return want
	}
	var before func(Right) bool
	if was := s.brakes.policy; was != nil {
		var gives map[Right]bool
		before = func(right Right) bool {
			if gives == nil {
				ids := map[authz.SourceID]bool{}
				for i := range want.Objects {
					if o := want.Objects[i].Space; o != nil {
						ids[o.Source] = true
					}
				}
				gives = rightsIn(*was, r.Snapshot, ids, r.Started)
			}
			return gives[right]
		}
	}
	want, r.withheld = withhold(have, want, s.o.Roles.Roles(), s.o.Policy, before)
	return want
}

// pass notes what goes on and counts from now on.
func (b *brakes) pass(passed []Past) {
	for _, p := range passed {
		same := func(o Past) bool { return o.Scope == p.Scope && o.Cause == p.Cause && o.Made == p.Made }
		if i := slices.IndexFunc(b.past, same); i >= 0 {
			b.past[i].At = p.At
		} else {
			b.past = append(b.past, p)
		}
	}
}

// approvalOf returns the Approval that a change could be covered by.
func approvalOf(c Change) Approval {
	switch {
	case c.Action == Create && c.Key.Kind == KindNamespace:
		return Approval{Source: c.Source}
	case c.Revokes && c.Old != nil && c.Old.Binding != nil:
		return Approval{c.Source, c.Old.Binding.Role}
	}
	return Approval{}
}

// forget drops the approvals of what nobody wants any more: should it come again, it is something new.
func (s *Syncer) forget(ctx context.Context, r *Round, want *Wanted, wanted map[string]bool) {
	if s.o.Mode != ModeEnforce || len(want.Untouchable) > 0 {
		return // what can't be judged now may be wanted again in the next round
	}
	var stale []string
	for k := range maps.Keys(s.brakes.approved) {
		if !wanted[k] {
			stale = append(stale, k)
		}
	}
	if len(stale) == 0 {
		return
	}
	if err := s.o.Held.Forget(ctx, stale); err != nil {
		r.Findings = append(r.Findings, authz.Finding{Code: "approvals_unwritable", Text: err.Error()})
		return
	}
	for _, k := range stale {
		delete(s.brakes.approved, k)
	}
}

// saveHeld shows what is held to plan --held; it writes only what is new, or what somebody changed, which rounds over
// everything look for.
func (s *Syncer) saveHeld(ctx context.Context, r *Round) {
	single := slices.Clone(r.Held)
	for i := range single {
		single[i].Change = "" // the hash of a change of the policy says nothing about whom it concerns
	}
	hash := HashOf(single)
	if s.o.Held == nil || s.brakes.saved == hash && r.part {
		return
	}
	if err := s.o.Held.Save(ctx, r.Held); err != nil {
		r.Findings = append(r.Findings, authz.Finding{Code: "held_unwritable", Text: err.Error()})
		return
	}
	s.brakes.saved = hash
}

// settle asks GitLab about what was held, and what is to be deleted, after all else of the round was written. What
// GitLab answers is no inference any more: a second plan goes on with it. It returns what is to be made so now.
func (s *Syncer) settle(ctx context.Context, r *Round, have *Observed, want, plain *Wanted) (*Wanted, error) {
	v, ok := s.o.Reader.(Verifier)
	if !ok || want.Hold != "" || len(r.Report.Deferred) > 0 || ctx.Err() != nil {
		return want, nil
	}
	gone, levels := s.questions(r, have, plain)
	if len(gone)+len(levels) == 0 {
		return want, nil
	}
	b := &s.brakes
	b.gone, b.levels = ask(ctx, v, gone, levels)
	defer func() { b.gone, b.levels = nil, nil }() // an answer counts in its own round only
	if len(b.gone)+len(b.levels) == 0 {
		return want, nil
	}
	again := *plain
	again.Gone, again.Untouchable = b.gone, map[authz.SourceID]string{}
	maps.Copy(again.Untouchable, plain.Untouchable)
	for id, is404 := range b.gone {
		if !is404 {
			again.Untouchable[id] = "GitLab's lists lack it, but GitLab answers for it"
		}
	}
	now := have.with(r.Plan)
	if s.o.Mode == ModeEnforce {
		var err error
		if now, err = s.observe(ctx, r.Snapshot); err != nil {
			return want, err
		}
		s.addTemplates(ctx, r, now, false)
	}
	done, report := r.Plan, r.Report
	r.Findings = append(r.Findings[:r.unplanned], report.Findings...)
	want = s.brake(ctx, r, now, &again)
	err := s.write(ctx, r, want)
	r.Plan = append(done, r.Plan...)
	r.Report.Applied += report.Applied
	r.Report.Failed = append(report.Failed, r.Report.Failed...)
	r.Report.Refused = append(report.Refused, r.Report.Refused...)
	r.Report.Duration += report.Duration
	return want, err
}

// questions lists what GitLab should be asked: in turns, one of each top-level group, and in each of these one of each
// place where somebody is missing, so that nobody's flood delays the others. What was never asked comes first: what
// GitLab has no answer for that settles it must not use up the turns of the rest.
func (s *Syncer) questions(r *Round, have *Observed, want *Wanted) (gone []authz.SourceID, levels []Membership) {
	before := s.brakes.asked
	s.brakes.asked = map[any]int{} // what is settled is forgotten
	open := map[any]bool{}         // to be asked, and not asked yet in this round
	var queues [][]any
	for _, sec := range Sections(r.Held) {
		var queue []any
		queued := map[any]bool{}
		for _, i := range sec.Items {
			if q := question(i, r.Snapshot); q != nil && !queued[q] {
				open[q], queued[q], queue = true, true, append(queue, q)
				s.brakes.asked[q] = before[q]
			}
		}
		queues = append(queues, inTurns(queue, before))
	}
	for more := true; more; {
		more = false
		for n := range queues {
			if len(queues[n]) == 0 || len(gone)+len(levels) == maxQuestions {
				continue
			}
			q := queues[n][0]
			queues[n], more = queues[n][1:], true
			if !open[q] {
				continue // another top-level group asked it
			}
			delete(open, q)
			s.brakes.asked[q]++
			switch q := q.(type) {
			case authz.SourceID:
				gone = append(gone, q)
			case Membership:
				levels = append(levels, q)
			}
		}
	}
	for q := range open {
		r.unasked = r.unasked || s.brakes.asked[q] == 0
	}
	for _, id := range toDelete(have, want, r.Snapshot) {
		if !slices.Contains(gone, id) && len(gone)+len(levels) < maxQuestions {
			gone = append(gone, id)
		}
	}
	return gone, levels
}

// question returns what GitLab could be asked about something that is held: a SourceID whether it exists, a Membership
// what level it has; nil: nothing.
func question(i Item, snap *authz.Snapshot) any {
	switch {
	case i.Role == "":
		return nil
	case !snap.Contains(i.Source):
		return i.Cause
	case i.Ask == (Membership{}) || i.Ask.User == 0:
		return nil
	}
	return i.Ask
}

// inTurns sorts the questions of one top-level group: those asked least come first, and of these one of each place.
func inTurns(queue []any, asked map[any]int) []any {
	type place struct {
		at    authz.SourceID
		asked int
	}
	turn, turns := map[any]int{}, map[place]int{}
	for _, q := range queue {
		p := place{asked: asked[q]}
		if m, ok := q.(Membership); ok {
			p.at = m.Source
		}
		turn[q] = turns[p]
		turns[p]++
	}
	slices.SortStableFunc(queue, func(a, b any) int { return cmp.Or(cmp.Compare(asked[a], asked[b]), cmp.Compare(turn[a], turn[b])) })
	return queue
}

// ask returns the answers that came in time.
func ask(ctx context.Context, v Verifier, gone []authz.SourceID, levels []Membership) (map[authz.SourceID]bool, map[Membership]authz.Level) {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	var mu sync.Mutex
	is404, level := map[authz.SourceID]bool{}, map[Membership]authz.Level{}
	var g errgroup.Group
	g.SetLimit(4)
	for _, id := range gone {
		g.Go(func() error {
			if exists, err := v.Exists(ctx, id); err == nil {
				mu.Lock()
				is404[id] = !exists
				mu.Unlock()
			}
			return nil
		})
	}
	for _, m := range levels {
		g.Go(func() error {
			if l, err := v.MemberLevel(ctx, m.Source, m.User); err == nil {
				mu.Lock()
				level[m] = l
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // what was not answered stays held
	return is404, level
}
