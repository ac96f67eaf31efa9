// Package kubectlgitlab is the plug-in `kubectl gitlab`. It answers from what the person may see: kube-apiserver, asked as
// they, and our own server's /api/v1, which tells people about themselves alone. Each command also works without that
// server, with less to say.
//
// It promises that a token goes nowhere but to the API server of the context and, if it is one of GitLab, to the one address
// of our server; that no token is printed; and that of a kubeconfig it changes what the command says, under the lock that
// kubectl takes too. It keeps nothing: tokens are kept by the credential plug-in of the kubeconfig, kubelogin.
package kubectlgitlab
