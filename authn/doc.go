// Package authn answers one question for kube-apiserver: who presents this token? It judges the two kinds of
// ID tokens that one GitLab signs, those of people (OAuth application, kubelogin) and those of CI jobs
// (id_tokens:), and serves the answers as a TokenReview webhook.
//
// It promises:
//   - a name is built by internal/kubename from GitLab's numeric ids alone, is never empty and never starts
//     with "system:";
//   - the audience decides which verifier judges a token, and each verifier refuses the other kind, although
//     both kinds share issuer and keys (a job's author chooses its audience freely);
//   - a forged token costs no key fetch beyond one per Config.MinFetchInterval, whatever arrives;
//   - no token and no claim value that its author chose appears in an error or a log line.
//
// It does not know what an identity may do (authz), asks neither GitLab's API nor Kubernetes, keeps no cache of
// answers (kube-apiserver has one, with rules of its own), and does not accept personal access tokens.
package authn
