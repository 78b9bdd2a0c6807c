"""What servers report of speculation, read: a file per server, and what they share.

forms         the forms, recognised by content
documents     files as JSON objects or text
reading       what a reader returns, and the checks of its counts
prometheus    counters of /metrics, of any server
vllm          vLLM's answers
vllm_bench    the result of vllm bench serve
sglang        SGLang's answers
llama_cpp     llama-server's answers and log
tensorrt_llm  TensorRT-LLM's iterations and answers
lm_studio     LM Studio's answers
aiperf        AIPerf's records
"""
