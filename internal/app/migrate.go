package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/migrate"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// MigrateView says what `migrate` looks for, and how it is shown.
type MigrateView struct {
	From        []string // 2018, certificate; empty: both
	Environment string   // a file with the environment of the integrator of 2018; "": none
	Output      string   // "", text, json or yaml
	Colour      string   // "", auto, always or never
}

// Check says which value there is not.
func (v MigrateView) Check() error {
	for _, f := range v.From {
		if !slices.Contains(origins, migrate.Origin(f)) {
			return fmt.Errorf("--from: want %s or %s, not %q", migrate.Integrator2018, migrate.Certificate, f)
		}
	}
	return PlanView{Output: v.Output, Colour: v.Colour}.Check()
}

var origins = []migrate.Origin{migrate.Integrator2018, migrate.Certificate}

func (v MigrateView) from() (out []migrate.Origin) {
	for _, o := range origins {
		if len(v.From) == 0 || slices.Contains(v.From, string(o)) {
			out = append(out, o)
		}
	}
	return out
}

// Migrate reads GitLab and the cluster, prints which namespaces of earlier programs may be adopted for whom, and the plan that
// follows from that. It writes nothing anywhere. It returns how much there is to do: namespaces that are proposed, those that a person
// has to decide about, and changes of the plan. It is an error if the plan would take something (migrate.Taken).
func Migrate(ctx context.Context, cfg *config.Config, log *slog.Logger, out, progress io.Writer, v MigrateView) (todo int, err error) {
	var settings []migrate.Setting
	var account string
	if v.Environment != "" {
		if settings, account, err = oldEnvironment(v.Environment); err != nil {
			return 0, err
		}
	}
	c, err := connect(cfg)
	if err != nil {
		return 0, err
	}
	before, rec, err := record(ctx, cfg, c, log, progress)
	if err != nil {
		return 0, err
	}
	switch s := before.Snapshot; {
	case s.MissingAll != "":
		return 0, fmt.Errorf("GitLab could not be read as a whole, so nobody knows what else has the same path: %s", s.MissingAll)
	case !s.Admin:
		return 0, errors.New("GitLab does not show that gitlab.readTokenFile is an administrator's token, so it may have groups and projects with the same path that were not read: use the token of an administrator")
	}
	old, err := readOld(ctx, c.kube)
	if err != nil {
		return 0, kubeerror.Explain(err)
	}
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return 0, err
	}
	found := migrate.Propose(migrationInput(cfg, v, account, policy, before, rec, old))
	after, err := planned(ctx, cfg, log, *rec, old.namespaces, found.Adopt())
	if err != nil {
		return 0, err
	}
	t, err := terms(ctx, cfg, c, after, log, progress)
	if err != nil {
		return 0, err
	}
	plan, err := forecast(cfg, after, t)
	if err != nil {
		return 0, err
	}
	d := migrate.NewDocument(found, unmarked(old.namespaces), settings, migrate.Taken(before.Plan, after.Plan, policy, before.Snapshot, rec.Taken), plan)
	if err := showMigration(out, d, v); err != nil {
		return 0, err
	}
	return len(found.Proposed) + len(found.Decide) + len(after.Plan), wrong(d, after)
}

// migrationInput is what the namespaces of earlier programs are judged by.
func migrationInput(cfg *config.Config, v MigrateView, account string, policy authz.Policy, before syncer.Round, rec *syncer.Recording, old oldObjects) migrate.Input {
	var adopt []migrate.Entry
	for _, a := range cfg.RBACSync.Adopt {
		adopt = append(adopt, migrate.Entry(a))
	}
	known, _ := before.PlannedOn.Observed.Names(before.Snapshot.Issuer)
	return migrate.Input{
		From: v.from(), Namespaces: old.namespaces, Bindings: old.bindings, Accounts: old.accounts, Foreign: rec.Observed.Foreign, Known: known,
		Snapshot: before.Snapshot, Policy: policy, Reserved: cfg.Authz.ReservedNames, Adopt: adopt, Account: account, Now: rec.Taken,
	}
}

// planned makes the plan as it would be with these entries, once an administrator has marked their namespaces, which are among those
// given.
func planned(ctx context.Context, cfg *config.Config, log *slog.Logger, rec syncer.Recording, namespaces []corev1.Namespace, adopt []migrate.Entry) (syncer.Round, error) {
	with := *cfg
	with.RBACSync.Adopt = nil
	entries := map[string]bool{}
	for _, e := range adopt {
		with.RBACSync.Adopt = append(with.RBACSync.Adopt, config.Adoption(e))
		entries[e.Namespace] = true
	}
	o, err := rules(&with, log)
	if err != nil {
		return syncer.Round{}, err
	}
	toMark := slices.DeleteFunc(slices.Clone(namespaces), func(ns corev1.Namespace) bool { return !entries[ns.Name] })
	if rec.Observed, err = cluster.Marked(rec.Observed, toMark); err != nil {
		return syncer.Round{}, err
	}
	s, err := syncer.New(rec.Replay(o))
	if err != nil {
		return syncer.Round{}, err
	}
	return s.Once(ctx, "command")
}

// wrong says why nobody should follow what was printed.
func wrong(d migrate.Document, after syncer.Round) error {
	var errs []error
	if n := len(d.Taken); n > 0 {
		errs = append(errs, fmt.Errorf("the plan deletes or takes %d things (see above): don't use these entries, and don't enforce this configuration before it is known why", n))
	}
	for _, it := range d.Proposed {
		e := it.Entries[0]
		id, ok := config.ParseSource(e.Source)
		if !ok || after.Names[id] != e.Namespace {
			errs = append(errs, fmt.Errorf("%s would not be adopted for %s although nothing speaks against it: see the findings of the plan", e.Namespace, e.Source))
		}
	}
	return errors.Join(errs...)
}

func showMigration(out io.Writer, d migrate.Document, v MigrateView) error {
	if done, err := forPrograms(out, v.Output, d); done {
		return err
	}
	if _, err := io.WriteString(out, d.Text()+d.Plan.Text(inColour(out, v.Colour))); err != nil {
		return err
	}
	for _, f := range d.Plan.Findings {
		fmt.Fprintf(out, "finding %s: %s\n", f.Code, f.Text)
	}
	return nil
}

// oldEnvironment reads the environment of the integrator of 2018.
func oldEnvironment(file string) (settings []migrate.Setting, account string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, "", fmt.Errorf("--env: %w", err)
	}
	defer f.Close()
	if settings, account, err = migrate.Settings(f); err != nil {
		return nil, "", fmt.Errorf("--env: reading %s: %w", file, err)
	}
	return settings, account, nil
}

// oldPage is how many objects are asked for at once.
const oldPage = 500

// oldObjects are what earlier programs may have left, among all others.
type oldObjects struct {
	namespaces []corev1.Namespace
	accounts   []corev1.ServiceAccount
	bindings   []rbacv1.RoleBinding
}

// readOld reads all namespaces, ServiceAccounts and RoleBindings.
func readOld(ctx context.Context, kube kubernetes.Interface) (old oldObjects, err error) {
	if old.namespaces, err = whole(ctx, "namespaces", kube.CoreV1().Namespaces().List, func(l *corev1.NamespaceList) []corev1.Namespace { return l.Items }); err != nil {
		return old, err
	}
	if old.accounts, err = whole(ctx, "service accounts", kube.CoreV1().ServiceAccounts(metav1.NamespaceAll).List, func(l *corev1.ServiceAccountList) []corev1.ServiceAccount { return l.Items }); err != nil {
		return old, err
	}
	old.bindings, err = whole(ctx, "role bindings", kube.RbacV1().RoleBindings(metav1.NamespaceAll).List, func(l *rbacv1.RoleBindingList) []rbacv1.RoleBinding { return l.Items })
	return old, err
}

// whole reads a list page by page.
func whole[L metav1.ListInterface, T any](ctx context.Context, what string, list func(context.Context, metav1.ListOptions) (L, error), items func(L) []T) (out []T, err error) {
	for o := (metav1.ListOptions{Limit: oldPage}); ; {
		page, err := list(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", what, err)
		}
		out = append(out, items(page)...)
		if o.Continue = page.GetContinue(); o.Continue == "" {
			return out, nil
		}
	}
}

// unmarked returns the namespaces without our mark.
func unmarked(list []corev1.Namespace) map[string]bool {
	out := map[string]bool{}
	for i := range list {
		if list[i].Labels[kubename.LabelManagedBy] != kubename.ManagedBy {
			out[list[i].Name] = true
		}
	}
	return out
}
