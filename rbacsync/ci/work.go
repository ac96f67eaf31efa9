package ci

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// work is one look at one namespace.
type work struct {
	p      *Provisioner
	n      Namespace
	before map[int64]record // what was remembered: for when the Secret was deleted
	lost   []int64          // who lost the right to read the token
	ca     []byte           // Cluster's, which changes between two passes

	s      *corev1.Secret // kubename.CISecret
	anchor *corev1.Secret // kubename.CIAnchor
	recs   map[int64]record
	// withheldSince is when somebody last lost the right to read s; zero: nobody did, or that is over.
	withheldSince time.Time

	issued, delivered int
	findings          []authz.Finding
	next              time.Time
	life              time.Duration
	agentContext      string // AgentState's, for projects of mode agent
	settledLoss       bool   // lost was dealt with
	changed           bool   // Status has changed
}

func (w *work) find(code string, project int64, text string) {
	w.findings = append(w.findings, authz.Finding{Code: code, Source: authz.Project(project), Text: text})
}

// by makes the next look be no later than at.
func (w *work) by(at time.Time) {
	if at.Before(w.next) {
		w.next = at
	}
}

// load reads the Secret and what is kept on it.
func (w *work) load(ctx context.Context) error {
	var err error
	if w.s, err = w.p.secret(ctx, w.n.Name, kubename.CISecret); err != nil {
		return err
	}
	if w.anchor, err = w.p.secret(ctx, w.n.Name, kubename.CIAnchor); err != nil {
		return err
	}
	w.readMarks()
	if w.recs = w.before; w.s != nil {
		w.recs = records(w.s)
		for id, r := range w.recs {
			r.refused, r.seen = w.before[id].refused, w.before[id].seen
			w.recs[id] = r
		}
	} else if w.recs == nil {
		w.recs = map[int64]record{}
	}
	return nil
}

func (w *work) do(ctx context.Context) error {
	if err := w.load(ctx); err != nil {
		return err
	}
	if w.n.Gone {
		return w.withdraw(ctx)
	}
	if err := w.killLost(ctx); err != nil {
		return err
	}
	if err := w.token(ctx); err != nil {
		return err
	}
	var errs []error
	for _, project := range w.n.Projects {
		if err := w.project(ctx, project); err != nil {
			errs = append(errs, err)
		}
	}
	if !w.n.Undecided {
		errs = append(errs, w.departed(ctx))
	}
	errs = append(errs, w.retire(ctx))
	if w.s != nil {
		errs = append(errs, w.save(ctx))
	}
	return errors.Join(errs...)
}

// secret reads a Secret of a namespace, nil if there is none; one without our mark is an error, because it belongs to
// somebody else.
func (p *Provisioner) secret(ctx context.Context, ns, name string) (*corev1.Secret, error) {
	s, err := p.Kube.CoreV1().Secrets(ns).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil //nolint:nilnil // what is not there is no error
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("reading Secret %s/%s: %w: apply deploy/manifests again", ns, name, err)
	case err != nil:
		return nil, fmt.Errorf("reading Secret %s/%s: %w", ns, name, err)
	case s.Labels[kubename.LabelManagedBy] != kubename.ManagedBy || s.Type != corev1.SecretTypeOpaque:
		return nil, fmt.Errorf("reading Secret %s/%s: it exists without our owner mark or is not Opaque: delete it if nothing else needs it", ns, name)
	}
	return s, nil
}

// killLost destroys the tokens when somebody who could have read one since it was issued has lost the right to deploy, and
// notes when that was. (Replacing one in the Secret would leave the old one alive.) The Secret, which knows who could read,
// ends last, and only when the time of the loss is on the new anchor: so nothing is forgotten if this ends halfway.
func (w *work) killLost(ctx context.Context) error {
	if w.n.Undecided {
		return nil
	}
	var had []int64
	if w.s != nil {
		had, _ = readers(w.s)
	}
	gone := without(slices.Compact(slices.Sorted(slices.Values(slices.Concat(had, w.lost)))), w.n.Readers)
	if len(gone) > 0 {
		w.withheldSince = w.p.Now()
		readable := w.s != nil && len(w.s.Data[keyToken]) > 0
		if w.anchor != nil || readable {
			if err := w.p.destroy(ctx, w.anchor); err != nil {
				return err
			}
			if err := w.makeAnchor(ctx); err != nil {
				return err
			}
		}
		if readable {
			if err := w.p.destroy(ctx, w.s); err != nil {
				return err
			}
			w.s = nil
		}
		w.p.log().InfoContext(ctx, "CI tokens destroyed: somebody who could read them has lost the right to deploy",
			"namespace", w.n.Name, "source", w.n.Source.String(), "users", gone[:min(len(gone), 20)])
	}
	w.settledLoss = true
	return nil
}

// destroyLost is killLost alone. What was kept on the Secret is kept on a new one, without a token.
func (w *work) destroyLost(ctx context.Context) error {
	if err := w.load(ctx); err != nil || w.s == nil && w.anchor == nil {
		return err
	}
	if err := w.killLost(ctx); err != nil {
		return err
	}
	if w.s != nil {
		return w.save(ctx)
	}
	return w.create(ctx)
}

// create makes the Secret, without a token, for what is kept on it.
func (w *work) create(ctx context.Context) error {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: kubename.CISecret, Namespace: w.n.Name, Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{keyCA: w.ca, keyNamespace: []byte(w.n.Name)},
	}
	if _, err := setRecords(s, w.recs); err != nil {
		return err
	}
	if _, err := setReaders(s, w.n.Readers); err != nil {
		return err
	}
	w.mark(s)
	made, err := w.p.Kube.CoreV1().Secrets(w.n.Name).Create(ctx, s, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("making Secret %s/%s: %w", w.n.Name, kubename.CISecret, err)
	}
	w.s = made
	return nil
}

// token makes the Secrets, with a token that works if anybody needs one and nobody who should not can see it.
func (w *work) token(ctx context.Context) error {
	if w.s == nil {
		if err := w.create(ctx); err != nil {
			return err
		}
	}
	if !w.n.needsToken() {
		return nil
	}
	if w.anchor == nil && w.n.deliversToken() {
		if err := w.makeAnchor(ctx); err != nil {
			return err
		}
	}
	if len(w.s.Data[keyToken]) == 0 && w.withheld() {
		return nil
	}
	if why := stale(w.s, w.n.Account, w.p.Cluster, w.p.keys.retired, w.p.Now()); why != "" {
		if err := w.issue(ctx, why); err != nil {
			return err
		}
	}
	if c, ok := parseClaims(w.s.Data[keyToken]); ok {
		w.life = c.life()
	}
	if at, err := time.Parse(time.RFC3339, w.s.Annotations[kubename.AnnotationRotateAt]); err == nil {
		w.by(at)
	}
	return nil
}

// issue requests a token bound to the Secret and stores it there. The token before stays valid until it expires, so
// that jobs which have it go on.
func (w *work) issue(ctx context.Context, why string) error {
	p, now := w.p, w.p.Now()
	token, expires, err := w.request(ctx, w.s)
	if err != nil {
		return err
	}
	s := w.s.DeepCopy()
	annotate(s, kubename.AnnotationWithheldSince, "")
	annotate(s, kubename.AnnotationRotateAt, rotateAt(w.n.Name, now, expires).UTC().Format(time.RFC3339))
	if had, _ := readers(s); !w.n.Undecided {
		// Who could read the token before and can't now was found by killLost; this token he never saw.
		if _, err := setReaders(s, slices.Compact(slices.Sorted(slices.Values(slices.Concat(had, w.n.Readers))))); err != nil {
			return err
		}
	}
	s.Data = map[string][]byte{
		keyToken: []byte(token), keyCA: p.Cluster.CA, keyNamespace: []byte(w.n.Name),
		keyExpires: []byte(expires.UTC().Format(time.RFC3339)),
	}
	if err := w.store(ctx, s); err != nil {
		return err
	}
	w.issued++
	p.log().InfoContext(ctx, "CI token issued", "namespace", w.n.Name, "source", w.n.Source.String(), "why", why, "expires", string(s.Data[keyExpires]))
	return nil
}

// store writes the Secret; the resourceVersion in it makes the write conflict when somebody else was faster.
func (w *work) store(ctx context.Context, s *corev1.Secret) error {
	stored, err := w.p.Kube.CoreV1().Secrets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("writing Secret %s/%s: %w", s.Namespace, kubename.CISecret, err)
	}
	w.s = stored
	return nil
}

// save writes down what was delivered and who can read the token, if that is news.
func (w *work) save(ctx context.Context) error {
	s := w.s.DeepCopy()
	changed, err := setRecords(s, w.recs)
	if err != nil {
		return err
	}
	if !w.n.Undecided {
		more, err := setReaders(s, w.n.Readers)
		if err != nil {
			return err
		}
		changed = changed || more
	}
	changed = w.mark(s) || changed
	if len(s.Data[keyToken]) == 0 && string(s.Data[keyCA]) != string(w.p.Cluster.CA) {
		s.Data, changed = map[string][]byte{keyCA: w.p.Cluster.CA, keyNamespace: []byte(w.n.Name)}, true
	}
	if !changed {
		return nil
	}
	return w.store(ctx, s)
}

// retire destroys a token that nobody needs any more, when all jobs that may have it are over.
func (w *work) retire(ctx context.Context) error {
	if w.n.needsToken() || w.n.Undecided || w.s == nil || w.anchor == nil && len(w.s.Data[keyToken]) == 0 {
		return nil
	}
	now := w.p.Now()
	for _, project := range w.n.Projects {
		r := w.recs[project.ID]
		over := r.Since.Add(w.p.handover())
		if r.Mode != project.Mode || now.Before(over) {
			if r.Mode == project.Mode {
				w.by(over)
			}
			return nil
		}
	}
	if err := w.p.destroy(ctx, w.anchor); err != nil {
		return err
	}
	w.anchor = nil
	w.p.log().InfoContext(ctx, "CI tokens destroyed: nobody needs them any more", "namespace", w.n.Name, "source", w.n.Source.String())
	if len(w.s.Data[keyToken]) == 0 {
		return nil
	}
	if err := w.p.destroy(ctx, w.s); err != nil {
		return err
	}
	w.s = nil
	return w.token(ctx)
}

// destroy deletes a Secret, if there is one, and with it the tokens that are bound to it.
func (p *Provisioner) destroy(ctx context.Context, s *corev1.Secret) error {
	if s == nil {
		return nil
	}
	p.mu.Lock()
	if st := p.states[s.Namespace]; st != nil { // or its end would look like somebody else's doing
		if st.uid == s.UID {
			st.uid = ""
		}
		if st.anchor == s.UID {
			st.anchor = ""
		}
	}
	p.mu.Unlock()
	err := p.Kube.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting Secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	return nil
}

// project gives one project what its jobs need, and takes back what an earlier mode left there.
func (w *work) project(ctx context.Context, project Project) error {
	rec := w.recs[project.ID].clone()
	if project.Frozen {
		return nil
	}
	if w.p.id == "" {
		w.by(w.p.Now().Add(10 * time.Second))
		return nil // nothing is written that does not say whose it is
	}
	if w.n.Undecided && rec.Mode != "" && rec.Mode != project.Mode {
		return nil // the group that says which mode may not have been read
	}
	if w.tooOld(ctx, project) {
		return nil
	}
	if project.Mode == rbacsync.DeliverAgent {
		ok, err := w.agent(ctx, project, &rec)
		w.recs[project.ID] = rec
		if err != nil || !ok {
			return err
		}
	}
	if project.Mode.Secretless() && !project.Bound {
		return nil // the round that writes the subject comes with a new list
	}
	vars, err := w.p.variables(w.n, project, rec.Token.id(w), w.agentContext)
	if err != nil {
		return err
	}
	if err := w.checkSizes(project, vars); err != nil {
		return err
	}
	as, read, unlooked := w.look(ctx, project, &rec)
	d := w.compare(as, read, &rec, vars)
	w.recs[project.ID] = rec
	if d.taken {
		w.tell(project, rec)
		return nil
	}
	if rec.Mode == "" && project.Mode == rbacsync.DeliverNone && d.empty() {
		rec.Mode, rec.Scope, rec.Since = rbacsync.DeliverNone, w.p.Scope, w.p.Now()
		w.recs[project.ID] = rec
	}
	if d.empty() {
		w.tell(project, rec)
		w.keeps(project, rec.Token)
		if over := rec.Since.Add(w.p.handover()); rec.Mode != "" && over.After(w.p.Now()) {
			w.by(over) // a subject of the mode before is to go then
		}
		return unlooked
	}
	if err := w.p.pace.Wait(ctx); err != nil {
		return err
	}
	if d.cluster || slices.ContainsFunc(d.write, func(v Variable) bool { return project.Mode.HoldsToken(v.Key) }) {
		if err := w.renew(ctx, project, &d); err != nil {
			return err
		}
	}
	written, err := w.hand(ctx, project, &rec, vars, d)
	w.recs[project.ID] = rec
	if err != nil {
		return &deliveryError{fmt.Errorf("delivering CI credentials to GitLab project %d (%s): %w", project.ID, project.Mode, err)}
	}
	w.tell(project, rec)
	if rec.Other != nil {
		return nil
	}
	w.by(rec.Since.Add(w.p.handover()))
	w.keeps(project, rec.Token)
	w.delivered++
	w.p.log().InfoContext(ctx, "CI credentials delivered", "namespace", w.n.Name, "project", project.ID, "mode", string(project.Mode), "written", written)
	return nil
}

// keeps notes until when a project can keep its token.
func (w *work) keeps(project Project, t *issued) {
	if project.Mode.HandsToken() && t != nil {
		w.by(t.Rotate)
		w.life = t.Expires.Sub(t.Since)
	}
}

// renew gets a new token for all parts that have one: the one before is kept nowhere.
func (w *work) renew(ctx context.Context, project Project, d *difference) error {
	t, err := w.issueForGitLab(ctx, project.ID)
	if err != nil {
		return err
	}
	parts, err := w.p.variables(w.n, project, t.ID, w.agentContext)
	if err != nil {
		return err
	}
	vars, err := w.p.variables(w.n, project, t.token, w.agentContext)
	if err != nil {
		return err
	}
	if err := w.checkSizes(project, vars); err != nil {
		return err
	}
	write := func(key string) bool {
		return slices.ContainsFunc(d.write, func(v Variable) bool { return v.Key == key })
	}
	var all []Variable
	for i, v := range vars {
		if project.Mode.HoldsToken(v.Key) {
			t.Parts[v.Key], d.sums[v.Key] = sumOf(parts[i]), sumOf(v)
		}
		if project.Mode.HoldsToken(v.Key) || write(v.Key) {
			all = append(all, v)
		}
	}
	d.write, d.token = all, t
	if project.Mode == rbacsync.DeliverCertificate {
		d.sums[clusterPart] = w.clusterSum(t.ID)
		if w.p.Clusters != nil {
			t.Mark = w.p.Clusters.Mark(t.token)
		}
	}
	return nil
}

// clusterSum tells whether a cluster integration is still the same.
func (w *work) clusterSum(tokenID string) string {
	return sum(w.p.Cluster.URL, string(w.p.Cluster.CA), w.n.Name, tokenID)
}

// tell reports what others have in the place of ours.
func (w *work) tell(project Project, rec record) {
	if rec.Other != nil {
		w.find("ci_other_cluster", project.ID, (&OtherClusterError{project.ID, w.p.Scope, rec.Other.Cluster, rec.Other.Keys}).Error())
		return
	}
	if len(rec.Foreign) > 0 {
		w.find("ci_foreign_variable", project.ID, (&ForeignError{project.ID, w.p.Scope, rec.Foreign}).Error())
	}
}

// checkSizes refuses what is too large for a job, also what GitLab makes of a cluster integration.
func (w *work) checkSizes(project Project, vars []Variable) error {
	caFrom := "cluster.publicCAFile"
	if project.Mode == rbacsync.DeliverAgent {
		caFrom = "gitlab.caFile"
	}
	if project.Mode == rbacsync.DeliverCertificate {
		vars = []Variable{{Key: "KUBE_CA_PEM", Value: string(w.p.Cluster.CA)}}
	}
	if err := checkSizes(vars, caFrom); err != nil {
		return &deliveryError{fmt.Errorf("delivering CI credentials to GitLab project %d (%s): %w", project.ID, project.Mode, err)}
	}
	return nil
}

// tooOld reports whether GitLab is too old for the project's mode; then the project keeps what it has.
func (w *work) tooOld(ctx context.Context, project Project) bool {
	asked := w.p.old[project.Mode]
	if asked == nil || w.p.TooOld == nil {
		return false
	}
	why, err := asked.get(w.p.Now(), w.p.recheck(), func() (string, error) { return w.p.TooOld(ctx, project.Mode) })
	if err != nil || why == "" {
		return false
	}
	w.find("ci_gitlab_version", project.ID, fmt.Sprintf("project %d gets no credentials: %s", project.ID, why))
	return true
}

// agent finds out what mode agent needs to know, and reports whether the project can be delivered.
func (w *work) agent(ctx context.Context, project Project, rec *record) (bool, error) {
	a := w.p.Agent
	if a == nil {
		return false, &deliveryError{fmt.Errorf("project %d is to use GitLab's agent, but none is configured (ci.agent)", project.ID)}
	}
	state, err := w.p.agent.get(w.p.Now(), w.p.recheck(), func() (AgentState, error) { return a.Look(ctx) })
	if err != nil {
		return false, &deliveryError{fmt.Errorf("asking GitLab whether its agent impersonates jobs: %w", err)}
	}
	w.agentContext = state.Context
	if refused := state.Refused != ""; refused != rec.refused {
		rec.refused, w.changed = refused, true
	}
	if rec.refused {
		w.find("ci_agent_refused", project.ID, fmt.Sprintf("project %d gets no rights through GitLab's agent: %s", project.ID, state.Refused))
		return false, nil
	}
	if rec.Slug != "" && rec.SlugOf == w.p.Scope {
		return true, nil
	}
	if err := w.p.pace.Wait(ctx); err != nil {
		return false, err
	}
	slug, err := a.Slug(ctx, project.ID, w.p.Scope)
	if err != nil {
		return false, &deliveryError{fmt.Errorf("reading the slug of environment %q of GitLab project %d: %w", w.p.Scope, project.ID, err)}
	}
	if _, ok := kubename.JobEnvironment(project.ID, slug); !ok {
		return false, &deliveryError{fmt.Errorf("GitLab project %d: %q as slug of environment %q is not of the form that GitLab documents", project.ID, slug, w.p.Scope)}
	}
	rec.Slug, rec.SlugOf, w.changed = slug, w.p.Scope, true
	return true, nil
}

// difference is what is to be done in a project.
type difference struct {
	sums     map[string]string
	write    []Variable
	cluster  bool // the cluster integration has to be written
	moved    bool // from another mode or scope
	leftover bool // GitLab showed variables of ours that are not wanted
	known    *Known
	former   bool
	token    *issued // the one in what is to be written, if there is one
	taken    bool    // another cluster has it all
}

func (d difference) empty() bool {
	return len(d.write) == 0 && !d.cluster && !d.moved && !d.leftover && !d.former
}

const clusterPart = "cluster"

// compare finds what is to be done, by the record and by what GitLab had when it was read.
func (w *work) compare(project Project, read time.Time, rec *record, vars []Variable) difference {
	p := w.p
	d := difference{sums: sumsOf(vars), former: len(rec.Former) > 0}
	if rec.Mode != "" || project.Mode != rbacsync.DeliverNone {
		d.moved = rec.Mode != project.Mode || rec.Scope != p.Scope
	}
	if project.Mode == rbacsync.DeliverNone {
		rec.Other = nil
	}
	if project.Mode == rbacsync.DeliverCertificate {
		d.sums[clusterPart] = w.clusterSum(rec.Token.id(w))
		d.cluster = d.moved || rec.Sums[clusterPart] != d.sums[clusterPart]
	}
	var again map[string]bool
	if project.VariablesRead && read.After(rec.Written) {
		s := drift(vars, project.Variables, p.Scope, w.claim(rec), rec)
		if project.Mode.WritesVariables() && s.other != nil {
			rec.Other, d.taken = s.other, true
			return d
		}
		if project.Mode.WritesVariables() {
			rec.Other = nil
		}
		again, rec.Foreign, d.leftover = s.again, s.foreign, s.leftover
		d.known = &Known{project.Variables}
	}
	for _, v := range vars {
		same := rec.Sums[v.Key] == d.sums[v.Key]
		if project.Mode.HoldsToken(v.Key) { // the token in it is not known any more: its sum is kept, and all else is compared
			same = rec.Token != nil && rec.Token.Parts[v.Key] == d.sums[v.Key] && rec.Sums[v.Key] != ""
			d.sums[v.Key] = rec.Sums[v.Key]
		}
		if again[v.Key] || rec.Scope != p.Scope || !same {
			d.write = append(d.write, v)
		}
	}
	for key := range rec.Sums { // of a mode or scope before: takeBack removes all that is not wanted
		if _, wanted := d.sums[key]; !wanted && !d.moved {
			d.leftover = true
		}
	}
	return d
}

// hand writes what is different into GitLab: first what is new, then it takes back what is left of an earlier mode.
func (w *work) hand(ctx context.Context, project Project, rec *record, vars []Variable, d difference) (written int, err error) {
	p := w.p
	now := p.Now()
	before := rec.clone()
	rec.Written = now     // what GitLab showed before is out of date, also after a failure
	claim := w.claim(rec) // before what is about to be written is noted: that is not ours yet
	for key, s := range rec.Sums {
		if !slices.Contains(rec.Foreign, key) {
			rec.doubt(key, s)
		}
	}
	next := rec.clone()
	next.Other = nil
	if d.moved {
		next.leave(rec.Mode, rec.Scope)
	}
	switch {
	case project.Mode.WritesVariables() && len(d.write) > 0:
		if p.Variables == nil {
			return 0, errNoWriter
		}
		if err = w.begin(ctx, project, rec, d); err != nil {
			return 0, err
		}
		next.Foreign = slices.DeleteFunc(next.Foreign, func(key string) bool {
			return slices.ContainsFunc(d.write, func(v Variable) bool { return v.Key == key })
		})
		written, err = p.Variables.Ensure(ctx, project.ID, p.Scope, d.write, d.known, claim)
		if foreign, ok := errors.AsType[*ForeignError](err); ok {
			next.Foreign, err = slices.Compact(slices.Sorted(slices.Values(slices.Concat(next.Foreign, foreign.Keys)))), nil
		}
	case d.cluster:
		if p.Clusters == nil {
			return 0, errNoWriter
		}
		if err = w.begin(ctx, project, rec, d); err != nil {
			return 0, err
		}
		var wrote bool
		if wrote, err = p.Clusters.Ensure(ctx, project.ID, p.Scope, p.Cluster, w.n.Name, d.token.token, claim); wrote {
			written++
		}
	}
	if taken, ok := errors.AsType[*OtherClusterError](err); ok {
		*rec = before
		rec.Written, rec.Other = now, &other{Cluster: taken.Cluster, Keys: taken.Keys}
		return 0, nil
	}
	if err != nil {
		return written, err
	}
	if d.moved {
		next.Mode, next.Since, next.Scope = project.Mode, now, p.Scope
	}
	if len(d.write) == len(vars) { // also of an integration, which is written as a whole
		next.Looked = now
	}
	next.Sums = d.sums
	if d.token != nil {
		next.Token = d.token
	}
	if !project.Mode.HandsToken() {
		next.Token = nil
	}
	if !project.VariablesRead { // nothing will show that somebody has made room, so it is tried again
		for _, key := range next.Foreign {
			next.Sums[key] = ""
		}
	}
	*rec = next
	keep := slices.Sorted(maps.Keys(sumsOf(vars)))
	if d.leftover {
		rec.leave(rbacsync.DeliverVariables, p.Scope)
	}
	return written, w.takeBack(ctx, project.ID, rec, func(f former) (bool, []string) {
		if f.Scope != p.Scope {
			return true, nil
		}
		if f.Mode == rbacsync.DeliverCertificate {
			return project.Mode != rbacsync.DeliverCertificate, nil
		}
		return true, keep
	})
}

// begin writes down what GitLab is about to be told: if that ends halfway, nobody knows which of the two values a part has,
// so neither counts as delivered, also when what is wanted changes back or the project leaves. It conflicts when another
// replica has taken over the namespace: then nothing is written to GitLab.
func (w *work) begin(ctx context.Context, project Project, rec *record, d difference) error {
	if rec.Sums == nil {
		rec.Sums = map[string]string{}
	}
	for _, v := range d.write {
		rec.Sums[v.Key] = "" // it may be there, with one value or the other
		rec.doubt(v.Key, d.sums[v.Key])
	}
	if d.cluster {
		rec.Sums[clusterPart] = ""
	}
	if d.moved {
		rec.leave(project.Mode, w.p.Scope)
	}
	w.recs[project.ID] = *rec
	return w.save(ctx)
}

var errNoWriter = errors.New("there is no token for writing to GitLab: name its file in gitlab.writeTokenFile")

// takeBack removes what is left of former modes, as far as remove says so, and keeps in rec what could not be removed.
func (w *work) takeBack(ctx context.Context, project int64, rec *record, remove func(former) (all bool, keep []string)) error {
	claim := w.claim(rec)
	var errs []error
	var left []former
	for _, f := range rec.Former {
		all, keep := remove(f)
		if !all {
			continue
		}
		var err error
		switch {
		case f.Mode == rbacsync.DeliverCertificate && w.p.Clusters == nil, f.Mode.WritesVariables() && w.p.Variables == nil:
			err = errNoWriter
		case f.Mode == rbacsync.DeliverCertificate:
			err = w.p.Clusters.Remove(ctx, project, f.Scope, w.p.Cluster, claim)
		case f.Mode.WritesVariables():
			_, err = w.p.Variables.Remove(ctx, project, f.Scope, keep, claim)
		}
		if err != nil {
			left = append(left, f)
			errs = append(errs, fmt.Errorf("taking back what was delivered by %s: %w", f.Mode, err))
		}
	}
	if rec.Former = left; len(left) == 0 {
		rec.Doubt = nil
	}
	return errors.Join(errs...)
}

// departed takes back what projects have that deploy here no longer.
func (w *work) departed(ctx context.Context) error {
	var gone []int64
	for _, id := range slices.Sorted(maps.Keys(w.recs)) {
		if !slices.ContainsFunc(w.n.Projects, func(p Project) bool { return p.ID == id }) {
			gone = append(gone, id)
		}
	}
	return w.takeAllBack(ctx, gone)
}

// takeAllBack takes back what these projects have from here, and forgets those that have nothing any more.
func (w *work) takeAllBack(ctx context.Context, ids []int64) error {
	if w.p.id == "" && len(ids) > 0 {
		w.by(w.p.Now().Add(10 * time.Second))
		return nil
	}
	var errs []error
	for _, id := range ids {
		done, err := w.leave(ctx, id)
		if err != nil {
			errs = append(errs, &deliveryError{fmt.Errorf("taking CI credentials back from GitLab project %d: %w", id, err)})
		}
		if done {
			delete(w.recs, id)
		}
	}
	return errors.Join(errs...)
}

// leave takes back what a project has from here, but for what another namespace has replaced. done is false while
// that has not happened yet.
func (w *work) leave(ctx context.Context, id int64) (done bool, err error) {
	rec := w.recs[id].clone()
	rec.leave(rec.Mode, rec.Scope)
	home, there := w.p.deliveredElsewhere(id, w.n.Name)
	if home != "" && there.Mode == "" {
		w.by(w.p.Now().Add(10 * time.Second)) // what it has from here works until then
		return false, nil
	}
	err = w.takeBack(ctx, id, &rec, func(f former) (bool, []string) {
		switch {
		case home == "" || f.Scope != there.Scope:
			return true, nil
		case f.Mode == rbacsync.DeliverCertificate:
			return there.Mode != rbacsync.DeliverCertificate, nil
		case there.Mode.WritesVariables():
			return true, slices.Sorted(maps.Keys(there.Sums))
		}
		return true, nil
	})
	w.recs[id] = rec
	return err == nil, err
}

// deliveredElsewhere returns the other namespace that a project deploys into, "" if there is none, and what it was
// given there.
func (p *Provisioner) deliveredElsewhere(project int64, not string) (home string, r record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	home = p.home[project]
	if home == "" || home == not {
		return "", record{}
	}
	if st := p.states[home]; st != nil {
		r = st.records[project]
	}
	return home, r
}

// withdraw destroys the token of a namespace that no source should have, then takes everything back. A Secret without a
// token remembers meanwhile what is left in GitLab.
func (w *work) withdraw(ctx context.Context) error {
	w.settledLoss = true
	maps.DeleteFunc(w.recs, func(id int64, _ record) bool { return w.n.Source == authz.Project(id) && !w.n.Exists })
	if err := w.p.destroy(ctx, w.anchor); err != nil {
		return err
	}
	w.anchor = nil
	if w.s != nil && len(w.s.Data[keyToken]) > 0 {
		if err := w.p.destroy(ctx, w.s); err != nil {
			return err
		}
		w.p.log().InfoContext(ctx, "CI tokens destroyed", "namespace", w.n.Name, "source", w.n.Source.String())
		w.s = nil
	}
	if w.s == nil && len(w.recs) > 0 {
		if err := w.create(ctx); err != nil {
			return err
		}
	}
	errs := []error{w.takeAllBack(ctx, slices.Sorted(maps.Keys(w.recs)))}
	switch {
	case w.s == nil:
	case len(w.recs) > 0:
		errs = append(errs, w.save(ctx))
	default:
		errs = append(errs, w.p.destroy(ctx, w.s))
		w.s = nil
	}
	return errors.Join(errs...)
}
