package ci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// delivery gives one project what its jobs need, and takes back what an earlier mode left there.
type delivery struct {
	*work
	project Project
	rec     record
	context string // AgentState's
	has     []authz.CIVariable
	hasAt   time.Time // when that was what GitLab had of the project's variables; zero: it is not known
}

// difference is what is to be done in a project.
type difference struct {
	sums     map[string]string
	again    map[string]bool // keys that have to be written again, or looked at closely, because the mark alone does not tell whose they are
	write    []Variable
	cluster  bool // the cluster integration has to be written
	moved    bool // from another mode or scope
	leftover bool // GitLab showed variables of ours that are not wanted
	known    *ProjectVariables
	token    *issued // the one in what is to be written, if there is one
	taken    bool    // another cluster has it all
}

const clusterPart = "cluster"

var errNoWriter = errors.New("there is no token for writing to GitLab: name its file in gitlab.writeTokenFile")

func (d *delivery) do(ctx context.Context) error {
	if ready, err := d.ready(ctx); err != nil || !ready {
		return err
	}
	vars, err := d.variables(d.tokenID(d.rec.Token))
	if err != nil {
		return err
	}
	unlooked := d.look(ctx)
	diff := d.compare(vars)
	x, err := explainer{d}.find()
	if err != nil {
		return err
	}
	handover, acts := handoverOf{d}.handover(vars, diff, x, d.whyNew(d.rec.Token)), false
	d.keep()
	var kept error // why an explanation is still there
	switch {
	case diff.taken: // all but the explanation, which is for all environments
		kept = explainer{d}.remove(ctx, x)
	case len(diff.write) > 0 || diff.cluster || diff.moved || diff.leftover || len(d.rec.Former) > 0 || x.remove:
		if err := d.deliver(ctx, vars, diff); err != nil {
			return err
		}
		unlooked, acts = nil, true
	case d.rec.Delivery == "" && d.project.Delivery == rbacsync.DeliverNone:
		d.rec.Delivery, d.rec.Scope, d.rec.Since = rbacsync.DeliverNone, d.p.c.Scope, d.p.c.Now()
		d.keep()
	}
	if d.report(); d.rec.Other != nil {
		if x.outcome == Removed && kept == nil {
			d.handed = append(d.handed, Handover{Namespace: d.n.Name, Project: d.project.ID, Delivery: d.project.Delivery, Protected: handover.Protected, Explanation: Removed})
		}
		return kept
	}
	unexplained := explainer{d}.explain(ctx, x, &handover)
	if (acts || handover.Explanation != "") && !handover.empty() {
		d.handed = append(d.handed, handover)
	}
	if t := d.rec.Token; d.project.Delivery.HandsToken() && t != nil {
		d.by(t.Rotate)
		d.life = t.Expires.Sub(t.Since)
	}
	if over := d.rec.Since.Add(d.p.c.Handover); over.After(d.p.c.Now()) {
		d.by(over) // a subject of the mode before is to go then
	}
	return errors.Join(unlooked, unexplained)
}

// deliver does what is to be done.
func (d *delivery) deliver(ctx context.Context, vars []Variable, diff difference) error {
	if err := d.p.pace.Wait(ctx); err != nil {
		return err
	}
	if diff.cluster || slices.ContainsFunc(diff.write, d.holdsToken) {
		if err := d.renew(ctx, &diff); err != nil {
			return err
		}
	}
	written, err := d.hand(ctx, vars, diff)
	d.keep()
	if err != nil {
		return deliveryFailed("delivering CI credentials to GitLab project %d (%s): %w", d.project.ID, d.project.Delivery, err)
	}
	if d.rec.Other == nil {
		d.delivered++
		d.p.c.Logger.InfoContext(ctx, "CI credentials delivered", "namespace", d.n.Name, "project", d.project.ID, "mode", string(d.project.Delivery), "written", written)
	}
	return nil
}

// keep notes the record for save.
func (d *delivery) keep() { d.recs[d.project.ID] = d.rec }

func (d *delivery) holdsToken(v Variable) bool { return d.holds(d.project, v.Key) }

func (d *delivery) find(code, format string, args ...any) {
	d.findings = append(d.findings, authz.Finding{Code: code, Source: authz.ProjectID(d.project.ID), Text: fmt.Sprintf(format, args...)})
}

// ready reports whether anything can be delivered now.
func (d *delivery) ready(ctx context.Context) (bool, error) {
	mode := d.project.Delivery
	switch {
	case d.project.Frozen:
		return false, nil
	case d.facts.id == "":
		d.by(d.p.c.Now().Add(10 * time.Second))
		return false, nil // nothing is written that does not say whose it is
	case d.n.Undecided && d.rec.Delivery != "" && d.rec.Delivery != mode:
		return false, nil // the group that says which mode may not have been read
	}
	if asked := d.p.old[mode]; asked != nil && d.p.c.TooOld != nil {
		why, err := asked.get(d.p.c.Now(), d.p.c.Recheck, func() (string, error) { return d.p.c.TooOld(ctx, mode) })
		if err == nil && why != "" { // while GitLab can't be asked, the project keeps what it has
			d.find("ci_gitlab_version", "project %d gets no credentials: %s", d.project.ID, why)
			return false, nil
		}
	}
	if mode == rbacsync.DeliverAgent {
		ok, err := d.agent(ctx)
		if d.keep(); err != nil || !ok {
			return false, err
		}
	}
	return !mode.Secretless() || d.project.Bound, nil // else the round that writes the subject comes with a new list
}

// agent finds out what mode agent needs to know, and reports whether the project can be delivered.
func (d *delivery) agent(ctx context.Context) (bool, error) {
	a, id, scope := d.p.c.Agent, d.project.ID, d.p.c.Scope
	if a == nil {
		return false, deliveryFailed("project %d is to use GitLab's agent, but none is configured (ci.agent)", id)
	}
	state, err := d.p.agent.get(d.p.c.Now(), d.p.c.Recheck, func() (AgentState, error) { return a.Look(ctx) })
	if err != nil {
		return false, deliveryFailed("asking GitLab whether its agent impersonates jobs: %w", err)
	}
	d.context = state.Context
	if refused := state.Refused != ""; refused != d.rec.refused {
		d.rec.refused, d.changed = refused, true
	}
	if d.rec.refused {
		d.find("ci_agent_refused", "project %d gets no rights through GitLab's agent: %s", id, state.Refused)
		return false, nil
	}
	if d.rec.Slug != "" && d.rec.SlugOf == scope {
		return true, nil
	}
	if err := d.p.pace.Wait(ctx); err != nil {
		return false, err
	}
	slug, err := a.Slug(ctx, id, scope)
	if err != nil {
		return false, deliveryFailed("reading the slug of environment %q of GitLab project %d: %w", scope, id, err)
	}
	if _, ok := kubename.JobEnvironment(id, slug); !ok {
		return false, deliveryFailed("GitLab project %d: %q as slug of environment %q is not of the form that GitLab documents", id, slug, scope)
	}
	d.rec.Slug, d.rec.SlugOf, d.changed = slug, scope, true
	return true, nil
}

// variables returns what a job gets with a token. It refuses what is too large for a job, also what GitLab makes of a
// cluster integration.
func (d *delivery) variables(token string) ([]Variable, error) {
	vars, err := d.unchecked(d.project, token, d.context)
	if err != nil {
		return nil, err
	}
	sized, caFrom := vars, "cluster.publicCAFile"
	if d.project.Delivery == rbacsync.DeliverAgent {
		caFrom = "gitlab.caFile"
	}
	if d.project.Delivery == rbacsync.DeliverCertificate {
		sized = []Variable{{Key: "KUBE_CA_PEM", Value: string(d.facts.cluster.CA)}}
	}
	if err := checkSizes(sized, caFrom); err != nil {
		return nil, deliveryFailed("delivering CI credentials to GitLab project %d (%s): %w", d.project.ID, d.project.Delivery, err)
	}
	return vars, nil
}

// compare finds what is to be done, by the record and by what GitLab had when it was read.
func (d *delivery) compare(vars []Variable) difference {
	mode, scope, rec := d.project.Delivery, d.p.c.Scope, &d.rec
	diff := difference{sums: sumsOf(vars)}
	if rec.Delivery != "" || mode != rbacsync.DeliverNone {
		diff.moved = rec.Delivery != mode || rec.Scope != scope
	}
	if mode == rbacsync.DeliverNone {
		rec.Other = nil
	}
	if mode == rbacsync.DeliverCertificate {
		diff.sums[clusterPart] = d.facts.sum(d.n.Name, d.tokenID(rec.Token))
		diff.cluster = diff.moved || rec.Sums[clusterPart] != diff.sums[clusterPart]
	}
	if d.hasAt.After(rec.Written) {
		if diff.drift(d, vars); diff.taken {
			return diff
		}
		diff.known = &ProjectVariables{d.has}
	}
	for _, v := range vars {
		same := rec.Sums[v.Key] == diff.sums[v.Key]
		if d.holdsToken(v) { // the token in it is not known any more: its sum is kept, and all else is compared
			same = rec.Token != nil && rec.Token.Parts[v.Key] == diff.sums[v.Key] && rec.Sums[v.Key] != ""
			diff.sums[v.Key] = rec.Sums[v.Key]
		}
		if diff.again[v.Key] || rec.Scope != scope || !same {
			diff.write = append(diff.write, v)
		}
	}
	for key := range rec.Sums { // of a mode or scope before: takeBack removes all that is not wanted
		if _, wanted := diff.sums[key]; !wanted && !diff.moved {
			diff.leftover = true
		}
	}
	return diff
}

// sum tells whether a cluster integration is still the same.
func (f facts) sum(namespace, tokenID string) string {
	return sum(f.cluster.URL, string(f.cluster.CA), namespace, tokenID)
}

// renew gets a new token for all parts that have one: the one before is kept nowhere.
func (d *delivery) renew(ctx context.Context, diff *difference) error {
	t, err := d.request(ctx, d.anchor)
	if err != nil {
		return err
	}
	d.p.c.Logger.InfoContext(ctx, "CI token issued for GitLab", "namespace", d.n.Name, "project", d.project.ID, "expires", t.Expires.UTC().Format(time.RFC3339))
	parts, err := d.variables(t.ID)
	if err != nil {
		return err
	}
	vars, err := d.variables(t.token)
	if err != nil {
		return err
	}
	t.Parts = map[string]string{}
	for i, v := range vars {
		if d.holdsToken(v) {
			t.Parts[v.Key], diff.sums[v.Key] = sumOf(parts[i]), sumOf(v)
		}
	}
	diff.token = t
	diff.write = slices.DeleteFunc(vars, func(v Variable) bool { return !d.holdsToken(v) && !contains(diff.write, v.Key) })
	if d.project.Delivery == rbacsync.DeliverCertificate {
		diff.sums[clusterPart] = d.facts.sum(d.n.Name, t.ID)
		if d.p.c.Clusters != nil {
			t.Mark = d.p.c.Clusters.Mark(t.token)
		}
	}
	return nil
}

func contains(vars []Variable, key string) bool {
	return slices.ContainsFunc(vars, func(v Variable) bool { return v.Key == key })
}

// hand writes what is different into GitLab: first what is new, then it takes back what is left of an earlier mode.
func (d *delivery) hand(ctx context.Context, vars []Variable, diff difference) (written int, err error) {
	mode, scope, now := d.project.Delivery, d.p.c.Scope, d.p.c.Now()
	before := d.rec.clone()
	d.rec.Written = now      // what GitLab showed before is out of date, also after a failure
	claim := d.claim(&d.rec) // before what is about to be written is noted: that is not ours yet
	for key, s := range d.rec.Sums {
		if !slices.Contains(d.rec.Foreign, key) {
			d.rec.doubt(key, s)
		}
	}
	next := d.rec.clone()
	next.Other = nil
	if diff.moved {
		next.leave(d.rec.Delivery, d.rec.Scope)
	}
	written, err = d.write(ctx, diff, claim, &next)
	if taken, ok := errors.AsType[*OtherClusterError](err); ok {
		d.rec = before
		d.rec.Written, d.rec.Other = now, &other{Cluster: taken.Cluster, Keys: taken.Keys}
		return 0, d.unexplain(ctx, d.project.ID, &d.rec, &d.rec)
	}
	if err != nil {
		return written, err
	}
	if diff.moved {
		next.Delivery, next.Since, next.Scope = mode, now, scope
	}
	if len(diff.write) == len(vars) { // also of an integration, which is written as a whole
		next.Looked = now
	}
	next.Sums = diff.sums
	next.Token = cmp.Or(diff.token, next.Token.within(vars, d.holdsToken))
	if !mode.HandsToken() {
		next.Token = nil
	}
	if !d.project.VariablesRead { // nothing will show that somebody has made room, so it is tried again
		for _, key := range next.Foreign {
			next.Sums[key] = ""
		}
	}
	d.rec = next
	if diff.leftover {
		d.rec.leave(rbacsync.DeliverVariables, scope)
	}
	return written, d.takeBack(ctx, d.project.ID, &d.rec, &d.rec)
}

// write tells GitLab what is new, and next whose variables are in the way.
func (d *delivery) write(ctx context.Context, diff difference, claim Claim, next *record) (written int, err error) {
	c, id := &d.p.c, d.project.ID
	switch {
	case len(diff.write) == 0 && !diff.cluster:
		return 0, nil
	case diff.cluster && c.Clusters == nil, !diff.cluster && c.Variables == nil:
		return 0, errNoWriter
	}
	if err := d.begin(ctx, diff); err != nil {
		return 0, err
	}
	if diff.cluster {
		wrote, err := c.Clusters.Ensure(ctx, id, c.Scope, d.facts.cluster, d.n.Name, diff.token.token, claim)
		if wrote {
			written = 1
		}
		return written, err
	}
	next.Foreign = slices.DeleteFunc(next.Foreign, func(key string) bool { return contains(diff.write, key) })
	written, err = c.Variables.Ensure(ctx, id, c.Scope, diff.write, diff.known, claim)
	if foreign, ok := errors.AsType[*ForeignError](err); ok {
		next.Foreign, err = sets.List(sets.New(next.Foreign...).Insert(foreign.Keys...)), nil
	}
	return written, err
}

// begin writes down what GitLab is about to be told: if that ends halfway, nobody knows which of the two values a part has,
// so neither counts as delivered, also when what is wanted changes back or the project leaves. It conflicts when another
// replica has taken over the namespace: then nothing is written to GitLab.
func (d *delivery) begin(ctx context.Context, diff difference) error {
	d.rec.begin(diff, d.project.Delivery, d.p.c.Scope)
	d.keep()
	return d.save(ctx, nil)
}

func (r *record) begin(diff difference, mode rbacsync.Delivery, scope string) {
	if r.Sums == nil {
		r.Sums = map[string]string{}
	}
	for _, v := range diff.write {
		r.Sums[v.Key] = "" // it may be there, with one value or the other
		r.doubt(v.Key, diff.sums[v.Key])
	}
	if diff.cluster {
		r.Sums[clusterPart] = ""
	}
	if diff.moved {
		r.leave(mode, scope)
	}
}

// report says what others have in the place of ours.
func (d *delivery) report() {
	if d.rec.Other != nil {
		d.find("ci_other_cluster", "%v", &OtherClusterError{d.project.ID, d.p.c.Scope, d.rec.Other.Cluster, d.rec.Other.Keys})
		return
	}
	if len(d.rec.Foreign) > 0 {
		d.find("ci_foreign_variable", "%v", &ForeignError{d.project.ID, d.p.c.Scope, d.rec.Foreign})
	}
}
