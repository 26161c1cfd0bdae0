"""Uses of SeamlessM4T-v2 as in public scripts. `public_uses.py` describes their format."""

from __future__ import annotations

_TRANSLATED = "load('ForTextToText').generate(**text, tgt_lang='fra'"
_SPEAKER = "pipeline('text-to-speech', model=folder, dtype=torch.float32)"

LOADING = {
    "one import line": """
from LIB import AutoProcessor, SeamlessM4Tv2Model
AutoProcessor.from_pretrained(folder)(text="seven", src_lang="eng", return_tensors="pt")["input_ids"]""",
    "tokenizer and feature extractor": """
from LIB import SeamlessM4TFeatureExtractor, SeamlessM4TTokenizer, SeamlessM4Tv2ForSpeechToText
extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
SeamlessM4TTokenizer.from_pretrained(folder)("seven").input_ids, extractor.sampling_rate""",
    "SeamlessM4TProcessor": """
from LIB import SeamlessM4TProcessor
SeamlessM4TProcessor.from_pretrained(folder).tokenizer.pad_token_id""",
    "torch_dtype": "SeamlessM4Tv2ForTextToText.from_pretrained(folder, torch_dtype=torch.float16).dtype",
    "dtype auto": "SeamlessM4Tv2ForTextToText.from_pretrained(folder, dtype='auto').dtype",
    "dtype as text": "SeamlessM4Tv2ForTextToText.from_pretrained(folder, dtype='float32').dtype",
    "low_cpu_mem_usage": "fresh('ForTextToText', low_cpu_mem_usage=True).dtype",
    "local_files_only": "fresh('ForTextToText', local_files_only=True).dtype",
    "cache_dir": "fresh('ForTextToText', cache_dir='models').dtype",
    "token": "fresh('ForTextToText', token='hf_x').dtype",
    "revision": "fresh('ForTextToText', revision='main').dtype",
    "trust_remote_code": "fresh('ForTextToText', trust_remote_code=True).dtype",
    "use_safetensors": "fresh('ForTextToText', use_safetensors=True).dtype",
    "attn_implementation": "fresh('ForTextToText', attn_implementation='eager').dtype",
    "ignore_mismatched_sizes": "fresh('ForTextToText', ignore_mismatched_sizes=True).dtype",
    "force_download off": "fresh('ForTextToText', force_download=False).dtype",
    "config from a folder": "SeamlessM4Tv2Config.from_pretrained(folder).hidden_size",
    "config attributes": "c = load('Model').config; (c.vocoder_offset, c.num_hidden_layers, c.model_type)",
}
_MODULE = {
    "to(device).eval()": """
device = "cuda" if torch.cuda.is_available() else "cpu"
fresh("ForTextToText").to(device).eval().device""",
    "to(torch.device)": "fresh('ForTextToText').to(torch.device('cpu')).device",
    "to(dtype)": "fresh('ForTextToText').to(torch.bfloat16).dtype",
    "to(device, dtype)": "fresh('ForTextToText').to(device='cpu', dtype=torch.float16).dtype",
    "half": "m = fresh('ForTextToText').half(); (m.dtype, m.generate(**text, tgt_lang='fra'))",
    "bfloat16": "m = fresh('ForTextToText').bfloat16(); (m.dtype, m.generate(**text, tgt_lang='fra'))",
    "half, then float": "m = fresh('ForTextToText').half().float(); (m.dtype, m.generate(**text, tgt_lang='fra'))",
    "float": "fresh('ForTextToText').float().dtype",
    "cpu": "fresh('ForTextToText').cpu().device",
    "a device that is not there": "load('ForTextToText').to('mps' if torch.cuda.is_available() else 'cuda')",
    "train off": "load('ForTextToText').train(False).training",
    "requires_grad_ off": "load('ForTextToText').requires_grad_(False).training",
    "device, dtype": "m = load('Model'); (m.device, m.dtype)",
    "device of a parameter": "next(load('Model').parameters()).device",
    "dtype of a parameter": "next(load('Model').parameters()).dtype",
    "count of parameters": "sum(p.numel() for p in load('Model').parameters())",
    "num_parameters": "load('Model').num_parameters()",
    "num_parameters without embeddings": "load('Model').num_parameters(exclude_embeddings=True)",
    "freeze": """
m = load("ForTextToText")
for p in m.parameters():
    p.requires_grad = False
any(p.requires_grad for p in m.parameters())""",
    "names of parameters": "sorted(name for name, _ in load('Model').named_parameters())",
    "state_dict": "{name: tensor.clone() for name, tensor in load('ForTextToSpeech').state_dict().items()}",
    "norm of the embedding": "load('Model').state_dict()['shared.weight'].norm().item()",
    "get_memory_footprint": "load('Model').get_memory_footprint() > 1_000_000",
    "can_generate": "load('Model').can_generate()",
    "name_or_path": "load('Model').name_or_path",
    "generation_config.to_dict": "load('Model').generation_config.to_dict()['text_decoder_lang_to_code_id']",
    "generation_config fields": "g = load('Model').generation_config; (g.max_new_tokens, g.num_beams, g.do_sample)",
    "generation_config set": """
m = fresh("ForTextToText")
m.generation_config.forced_decoder_ids = None
m.generation_config.max_new_tokens = 3
m.generate(**text, tgt_lang="fra")""",
    "languages": "sorted(load('Model').generation_config.vocoder_lang_code_to_id)",
    "isinstance of a module": "isinstance(load('Model'), torch.nn.Module)",
    "torch.compile": "torch.compile(load('ForTextToText')).generate(**text, tgt_lang='fra')",
    "DataParallel": "torch.nn.DataParallel(load('ForTextToText')).module.generate(**text, tgt_lang='fra')",
    "inference_mode": """
with torch.inference_mode():
    out = load("ForTextToText").generate(**text, tgt_lang="fra")
out""",
    "save_pretrained": "import tempfile; load('ForTextToText').save_pretrained(tempfile.mkdtemp())",
    "deepcopy": "import copy; copy.deepcopy(load('ForTextToText')).dtype",
    "a hook": "load('ForTextToText').register_forward_hook(lambda *_: None).remove()",
    "the vocoder": "load('Model').vocoder.config.sampling_rate",
    "del, then gc": "import gc; m = fresh('ForTextToText'); del m; gc.collect() >= 0",
}
_TEXT_OUT = {
    "t2tt": "processor.batch_decode(load('ForTextToText').generate(**text, tgt_lang='fra'), skip_special_tokens=True)",
    "t2tt by the whole model": """
out = load("Model").generate(**text, tgt_lang="fra", generate_speech=False)
processor.decode(out[0].tolist()[0], skip_special_tokens=True)""",
    "sequences by name": "load('Model').generate(**text, tgt_lang='fra', generate_speech=False).sequences",
    "asr": "load('ForSpeechToText').generate(**speech, tgt_lang='eng')[0].numpy().squeeze()",
    "s2tt": "load('ForSpeechToText').generate(input_features=speech.input_features, tgt_lang='fra')",
    "asr by the whole model": "load('Model').generate(**speech, tgt_lang='eng', generate_speech=False)[0]",
    "a batch of texts": "load('ForTextToText').generate(**texts, tgt_lang='fra')",
    "inputs on a device": "load('ForTextToText').generate(**text.to(load('ForTextToText').device), tgt_lang='fra')",
    "a dict of tensors": "load('ForTextToText').generate(**{k: v.to('cpu') for k, v in text.items()}, tgt_lang='fra')",
    "features in half precision": """
m = fresh("ForSpeechToText").half()
m.generate(input_features=speech.input_features.half(), attention_mask=speech.attention_mask, tgt_lang="eng")""",
    "input_ids alone": "load('ForTextToText').generate(text.input_ids, tgt_lang='fra')",
    "beams": f"{_TRANSLATED}, num_beams=5)",
    "beams, early stopping": f"{_TRANSLATED}, num_beams=4, early_stopping=True)",
    "max_new_tokens": f"{_TRANSLATED}, max_new_tokens=3)",
    "max_length": f"{_TRANSLATED}, max_length=200)",
    "repetition_penalty": f"{_TRANSLATED}, repetition_penalty=1.2)",
    "no_repeat_ngram_size": f"{_TRANSLATED}, no_repeat_ngram_size=3)",
    "length_penalty": f"{_TRANSLATED}, num_beams=3, length_penalty=0.8)",
    "n best": "load('ForTextToText').generate(**texts, tgt_lang='fra', num_beams=3, num_return_sequences=3).shape[0]",
    "sampling": f"{_TRANSLATED}, do_sample=True, top_k=1, temperature=0.7)",
    "top_p, unused": f"{_TRANSLATED}, do_sample=False, top_p=0.9)",
    "use_cache": f"{_TRANSLATED}, use_cache=True)",
    "no cache": f"{_TRANSLATED}, use_cache=False)",
    "num_beam_groups": f"{_TRANSLATED}, num_beams=2, num_beam_groups=1)",
    "synced_gpus": f"{_TRANSLATED}, synced_gpus=False)",
    "no logits_processor": """
from transformers import LogitsProcessorList
load("ForTextToText").generate(**text, tgt_lang="fra", logits_processor=LogitsProcessorList())""",
    "own pad_token_id": f"{_TRANSLATED}, pad_token_id=processor.tokenizer.pad_token_id)",
    "two ends": f"{_TRANSLATED}, eos_token_id=[3, 2])",
    "a GenerationConfig": """
from transformers import GenerationConfig
config = GenerationConfig(num_beams=2, max_new_tokens=9)
load("ForTextToText").generate(**text, tgt_lang="fra", generation_config=config)""",
    "numpy numbers": f"{_TRANSLATED}, num_beams=np.int64(2), length_penalty=np.float32(1))",
    "a language of another spelling": "load('ForTextToText').generate(**text, tgt_lang='__fra__')",
    "an unknown language": "load('ForTextToText').generate(**text, tgt_lang='xxx')",
    "an argument of another model": f"{_TRANSLATED}, language='fr')",
    "generate_speech in a dedicated class": f"{_TRANSLATED}, generate_speech=False)",
    "src_lang in generate": "load('ForTextToText').generate(**text, src_lang='eng', tgt_lang='fra')",
    "a prompt": "load('ForTextToText').generate(**text, decoder_input_ids=torch.tensor([[602]]))",
    "a logits processor": """
class Same(transformers.LogitsProcessor):
    def __call__(self, ids, scores):
        return scores
load("ForTextToText").generate(**text, tgt_lang="fra", logits_processor=[Same()])""",
    "a streamer": """
from transformers import TextStreamer
load("ForTextToText").generate(**text, tgt_lang="fra", streamer=TextStreamer(processor.tokenizer))""",
    "output_attentions": """
out = load("ForTextToText").generate(**text, tgt_lang="fra", return_dict_in_generate=True, output_attentions=True)
len(out.cross_attentions)""",
}
_SCORES = {
    "return_dict_in_generate": f"{_TRANSLATED}, return_dict_in_generate=True).sequences",
    "sequences_scores": """
wanted = {"return_dict_in_generate": True, "output_scores": True}
load("ForTextToText").generate(**text, tgt_lang="fra", num_beams=3, **wanted).sequences_scores""",
    "transition scores, greedy": """
m = load("ForTextToText")
out = m.generate(**text, tgt_lang="fra", return_dict_in_generate=True, output_scores=True)
m.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)""",
    "transition scores, beams": """
m = load("ForTextToText")
out = m.generate(**text, tgt_lang="fra", num_beams=3, return_dict_in_generate=True, output_scores=True)
m.compute_transition_scores(out.sequences, out.scores, out.beam_indices)""",
    "confidence": """
m = load("ForSpeechToText")
out = m.generate(**speech, tgt_lang="eng", return_dict_in_generate=True, output_scores=True)
m.compute_transition_scores(out.sequences, out.scores, normalize_logits=True).exp().mean().item()""",
    "scores of the vocabulary": """
out = load("ForTextToText").generate(**text, tgt_lang="fra", return_dict_in_generate=True, output_scores=True)
torch.stack([score.softmax(-1).max() for score in out.scores])""",
    "count of steps": """
out = load("ForTextToText").generate(**text, tgt_lang="fra", return_dict_in_generate=True, output_scores=True)
len(out.scores)""",
    "logits of given tokens": "load('ForTextToText')(**text, decoder_input_ids=torch.tensor([[3, 602, 286]])).logits",
    "logits without decoder_input_ids": "load('ForSpeechToText')(**speech).logits",
    "loss": "load('ForTextToText')(**text, labels=torch.tensor([[602, 286, 3]])).loss",
}
_SPEECH_OUT = {
    "t2st": "load('ForTextToSpeech').generate(**text, tgt_lang='fra')[0].cpu().numpy().squeeze()",
    "t2st by the whole model": "load('Model').generate(**text, tgt_lang='fra')[0].cpu().numpy().squeeze()",
    "s2st": "load('ForSpeechToSpeech').generate(**speech, tgt_lang='fra')[0]",
    "s2st by the whole model": "waveform, n = load('Model').generate(**speech, tgt_lang='fra'); (waveform, n)",
    "speaker_id": "load('ForTextToSpeech').generate(**text, tgt_lang='fra', speaker_id=1)[0]",
    "intermediate ids": """
out = load("Model").generate(**text, tgt_lang="fra", return_intermediate_token_ids=True)
(out.sequences, out.unit_sequences, out.waveform, out.waveform_lengths)""",
    "text_num_beams": "load('Model').generate(**text, tgt_lang='fra', text_num_beams=4)[0]",
    "num_beams of both": "load('Model').generate(**text, tgt_lang='fra', num_beams=4, speech_do_sample=True)[0]",
    "speech_num_beams of one": "load('Model').generate(**text, tgt_lang='fra', num_beams=2, speech_num_beams=1)[0]",
    "speech_num_beams of more": "load('Model').generate(**text, tgt_lang='fra', speech_num_beams=4)[0]",
    "rate of the model": "(load('Model').config.sampling_rate, load('ForTextToSpeech').config.sampling_rate)",
    "speech without a language": "load('ForTextToSpeech').generate(**text)",
}
_ENCODERS = {
    "get_encoder": "load('ForTextToText').get_encoder()(**text).last_hidden_state",
    "text_encoder": "load('Model').text_encoder(text.input_ids, attention_mask=text.attention_mask).last_hidden_state",
    "text_encoder by position": "load('Model').text_encoder(text.input_ids)[0].mean(1)",
    "speech_encoder": "load('ForSpeechToText').speech_encoder(**speech).last_hidden_state",
    "speech_encoder of the whole model": "load('Model').speech_encoder(speech['input_features'])[0].shape",
    "encoder of speech": "load('ForSpeechToText').get_encoder().main_input_name",
    "hidden states": "len(load('Model').text_encoder(**text, output_hidden_states=True).hidden_states)",
}
_RECOGNITION = "pipeline('automatic-speech-recognition', "
_ASR = (
    f"{_RECOGNITION}model=load('ForSpeechToText'), tokenizer=processor.tokenizer, "
    "feature_extractor=processor.feature_extractor)"
)
_TO_ENGLISH = "generate_kwargs={'tgt_lang': 'eng'}"
_PIPELINES = {
    "asr of an array": f"{_ASR}(samples, {_TO_ENGLISH})",
    "asr of a list": f"{_ASR}([samples, samples[:20000]], {_TO_ENGLISH}, batch_size=1)",
    "asr of a mapping": f"{_ASR}({{'array': samples, 'sampling_rate': rate}}, {_TO_ENGLISH})",
    "asr of raw": f"{_ASR}({{'raw': samples, 'sampling_rate': rate}}, {_TO_ENGLISH})['text']",
    "asr of (1, n)": f"{_ASR}(samples[None], {_TO_ENGLISH})",
    "asr of stereo": f"{_ASR}(np.stack([samples, samples]), {_TO_ENGLISH})",
    "asr of a tensor": f"{_ASR}(torch.from_numpy(samples), {_TO_ENGLISH})",
    "asr with other keys": f"{_ASR}({{'array': samples, 'sampling_rate': rate, 'id': 7}}, {_TO_ENGLISH})",
    "asr of a generator": f"list({_ASR}((x for x in [samples, samples]), {_TO_ENGLISH}))",
    "asr of a data set": f"""
from transformers.pipelines.pt_utils import KeyDataset
rows = [{{"audio": samples}}, {{"audio": samples[:20000]}}]
[answer["text"] for answer in {_ASR}(KeyDataset(rows, "audio"), {_TO_ENGLISH})]""",
    "asr, cut at 30 s": f"{_ASR}(samples, chunk_length_s=30, {_TO_ENGLISH})",
    "asr, cut at 1 s": f"{_ASR}(samples, chunk_length_s=1, stride_length_s=0, {_TO_ENGLISH})",
    "asr, cut with strides": f"{_ASR}(samples, chunk_length_s=1, stride_length_s=(0.2, 0.1), {_TO_ENGLISH})",
    "asr with options": f"{_ASR}(samples, generate_kwargs={{'tgt_lang': 'eng', 'num_beams': 1, 'max_new_tokens': 4}})",
    "asr with times": f"{_ASR}(samples, return_timestamps=True, {_TO_ENGLISH})",
    "rate of the feature extractor": f"{_ASR}.feature_extractor.sampling_rate",
    "attributes": f"p = {_ASR}; (p.task, p.device, p.dtype, p.torch_dtype, p.model.dtype, p.tokenizer.pad_token_id)",
    "asr by folder": f"{_RECOGNITION}model=folder, dtype=torch.float32)(samples, {_TO_ENGLISH})",
    "asr, device -1": f"{_RECOGNITION}model=folder, device=-1, torch_dtype=torch.float32)(samples, {_TO_ENGLISH})",
    "asr with a processor": """
p = pipeline("automatic-speech-recognition", model=load("ForSpeechToText"), processor=processor,
             tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor)
p(samples, generate_kwargs={"tgt_lang": "fra"})""",
    "asr of a file's bytes": f"{_ASR}(data, {_TO_ENGLISH})",
    "asr of a path": f"{_ASR}(clip, {_TO_ENGLISH})",
    "asr of undecoded rows": f"{_ASR}({{'bytes': data, 'path': None}}, {_TO_ENGLISH})",
    "text-to-speech": f"{_SPEAKER}('seven', forward_params={{'tgt_lang': 'fra'}})",
    "text-to-audio": """
speak = pipeline("text-to-audio", model=folder, dtype=torch.float32)
speak("seven", generate_kwargs={"tgt_lang": "fra", "speaker_id": 1})""",
    "text-to-speech of a list": f"{_SPEAKER}(['seven', 'forty-two'], forward_params={{'tgt_lang': 'fra'}})",
    "text-to-speech, from French": f"""
source, target = {{"src_lang": "fra"}}, {{"tgt_lang": "eng"}}
{_SPEAKER}("sept", preprocess_params=source, forward_params=target)""",
    "text-to-speech without a language": "pipeline('text-to-speech', model=folder)('seven')",
    "translation": "pipeline('translation', model=folder, src_lang='eng', tgt_lang='fra')('seven')",
}
AFTER_LOADING: dict[str, str] = _MODULE | _TEXT_OUT | _SCORES | _SPEECH_OUT | _ENCODERS | _PIPELINES
USES: dict[str, str] = LOADING | AFTER_LOADING
