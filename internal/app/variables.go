package app

import (
	"context"
	"errors"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// variables hands CI credentials over as project variables.
type variables struct{ api *gitlab.Variables }

// Ensure implements ci.VariableWriter.
func (v variables) Ensure(ctx context.Context, project int64, scope string, vars []ci.Variable, known *ci.ProjectVariables, claim ci.Claim) (int, error) {
	want := make([]gitlab.Variable, 0, len(vars))
	for _, x := range vars {
		kind := gitlab.EnvVar
		if x.File {
			kind = gitlab.File
		}
		// Raw: a "$" in a value is that character and no reference to another variable.
		want = append(want, gitlab.Variable{
			Key: x.Key, Value: x.Value, Type: kind, Masked: x.Masked, Protected: x.Protected,
			Raw: true, EnvironmentScope: scope, Delivery: x.Delivery(), Description: "do not edit",
		})
	}
	var have gitlab.Have
	if known != nil {
		have = gitlab.Have{Known: true, Variables: known.Variables}
	}
	n, err := v.api.Ensure(ctx, project, want, have, claimed(claim))
	if other, ok := errors.AsType[*gitlab.OtherClusterError](err); ok {
		return n, &ci.OtherClusterError{Project: project, Scope: scope, Cluster: other.Cluster, Keys: other.Keys}
	}
	return n, foreign(project, scope, err)
}

// Remove implements ci.VariableWriter.
func (v variables) Remove(ctx context.Context, project int64, scope string, keep []string, claim ci.Claim) (int, error) {
	kept := make([]gitlab.Variable, 0, len(keep))
	for _, key := range keep {
		kept = append(kept, gitlab.Variable{Key: key, EnvironmentScope: scope})
	}
	return v.api.Remove(ctx, project, []string{scope}, kept, gitlab.Have{}, claimed(claim))
}

// Look implements ci.VariableWriter.
func (v variables) Look(ctx context.Context, project int64, scope string) ([]authz.CIVariable, error) {
	list, err := v.api.List(ctx, project)
	if err != nil {
		return nil, err
	}
	var out []authz.CIVariable
	for _, x := range list {
		if x.EnvironmentScope != scope {
			continue
		}
		row := authz.CIVariable{
			Key: x.Key, Scope: scope, File: x.Type == gitlab.File, Masked: x.Masked, Protected: x.Protected, Raw: x.Raw, Hidden: x.Hidden,
			Marked: x.Marked, Cluster: x.Cluster,
		}
		row.Delivery = ci.Variable{Key: x.Key, Value: x.Value, File: row.File, Masked: row.Masked, Protected: row.Protected}.Delivery()
		out = append(out, row)
	}
	return out, nil
}

func claimed(c ci.Claim) gitlab.Claim {
	return gitlab.Claim{Cluster: c.Cluster, Replaces: c.Replaces, Wrote: c.Wrote}
}

// foreign turns an error that says nothing but that somebody has variables of their own into ci's.
func foreign(project int64, scope string, err error) error {
	keys, only := foreignKeys(err)
	if err == nil || !only {
		return err
	}
	slices.Sort(keys)
	return &ci.ForeignError{Project: project, Scope: scope, Keys: keys}
}

func foreignKeys(err error) (keys []string, only bool) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		only = true
		for _, e := range joined.Unwrap() {
			more, all := foreignKeys(e)
			keys, only = append(keys, more...), only && all
		}
		return keys, only
	}
	if f, ok := errors.AsType[*gitlab.ForeignVariableError](err); ok {
		return []string{f.Key}, true
	}
	return nil, false
}
