// Command sync measures the sync engine at the size of a large GitLab and prints one BENCH line per number.
//
// Everything in it is real except GitLab, which is internal/gitlabsim with GitLab's default rate limits on: etcd,
// kube-apiserver and kube-controller-manager with the tenant fence and the integrator's cage, and the integrator
// itself as a process of its own (`serve`), which knows nothing of being measured. What it wrote, and when, is read
// from kube-apiserver's audit log, so the numbers don't depend on what the program says about itself.
//
// It does not promise the same numbers on another machine; ratios and counts should hold:
//
//   - sync.apply_vs_raw: the rate of the first round, divided by that of a bare client which writes the same objects to
//     another fresh cluster.
//   - revoke.p99_vs_raw and revoke.group_vs_raw: the time from when GitLab sends a hook to the first 403 in each namespace, divided
//     by that of a bare client which, on receipt of the same hook, at once writes the same RoleBindings to the same cluster with as
//     many writes at the same time. The two take turns with the same users; who has no turn is frozen (SIGSTOP). p99 is that of
//     up to 200 revocations, the group's the median of ten over 121 namespaces. Bar: at most 2. Revocations come no faster than
//     GitLab lets single projects be read (400 a minute): of more of them the waiting for that would be measured.
//   - against.plan, against.first_round, against.apply_vs_raw, against.revoke_p50, _p99 and _group, against.rss: with
//     -against, what this build needs or reaches, divided by the same of another build, over the same GitLab. Both have a
//     cluster of their own, with their own manifests, and take turns.
//   - hang.KIND.…, with -hang: how many seconds pass until a block (first 403 and login refused), a removal by a hook and a
//     RoleBinding that somebody changed by hand are carried out elsewhere, and a hook has its answer, while a part of GitLab
//     hangs or fails for ever; and whether staleness_seconds is true (1): never less than the age of anything that GitLab
//     says and the cluster does not. Kinds: project, project_500, group, user_429, users_429, graphql and gitlab, in which
//     nothing can be read.
package main
